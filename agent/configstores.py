"""The sections that say where bundles come from and whose signature counts."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from agent.configtypes import FilePath, HttpUrl, Positive, Section, Size
from agent.units import Seconds

_KEY_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_KEY_BYTES = 32


def _parse_key(value: object) -> object:
    """A public key as base64 of its 32 bytes, or the absolute path of a file that holds one."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("/"):
        return text
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise ValueError("not an Ed25519 public key: base64 of 32 bytes, or a file's absolute path")
    return text


PublicKey = Annotated[str, BeforeValidator(_parse_key)]


class Trust(Section):
    """Whose signature makes a bundle's manifest count."""

    keys: dict[str, PublicKey] = Field(
        default_factory=dict,
        description="Key id → Ed25519 public key: base64 of its 32 bytes, or a file (PEM, base64).",
    )
    required: bool | None = Field(
        None,
        description="Refuse a bundle without a good signature; default: true in production, and"
        " wherever `keys` are named.",
    )
    threshold: int = Field(
        1, ge=1, le=16, description="How many different keys must have signed a manifest."
    )

    @model_validator(mode="after")
    def _sound(self) -> Trust:
        for name in self.keys:
            if not _KEY_ID.fullmatch(name):
                raise ValueError(f"{name[:64]!a} is no key id: letters, digits, '.', '_', '-'")
        if self.keys and self.threshold > len(self.keys):
            raise ValueError("`threshold` asks for more keys than are named")
        return self

    def demanded(self, *, production: bool) -> bool:
        """Whether a bundle must be signed."""
        return (production or bool(self.keys)) if self.required is None else self.required


_WEB = ("ca_file", "streams", "bandwidth", "timeout")
_STORE_OPTIONS: dict[str, tuple[str, ...]] = {
    "folder": ("path",),
    "http": ("url", "token_file", "redirects", *_WEB),
    "s3": (
        *("bucket", "prefix", "region", "endpoint", "bucket_owner", "credentials_file", "profile"),
        *_WEB,
    ),
}
_STORE_NEEDS = {"folder": "path", "http": "url", "s3": "bucket"}


class BundleStore(Section):
    """Where `channels/CHANNEL.json` and `bundles/VERSION/` are."""

    type: Literal["folder", "http", "s3"] = Field("folder", description="What kind of store it is.")
    path: FilePath | None = Field(None, description="folder: where `channels/` and `bundles/` are.")
    url: HttpUrl | None = Field(
        None, description="http: what `channels/` and `bundles/` are below."
    )
    bucket: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="s3: the bucket."
    )
    prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.=/-]*$",
        description="s3: what the names of its objects begin with.",
    )
    region: str = Field("us-east-1", pattern=r"^[a-z0-9-]+$", description="s3: the region.")
    endpoint: HttpUrl | None = Field(None, description="s3: another service than AWS's own.")
    bucket_owner: str | None = Field(
        None, pattern=r"^\d{12}$", description="s3: account that must own the bucket."
    )
    credentials_file: FilePath | None = Field(
        None, description="s3: a shared credentials file; read again for each request."
    )
    profile: str = Field("default", description="s3: the heading in that file.")
    poll: Positive = Field(
        Seconds(10.0), description="How often it is asked; for a folder, a net behind inotify."
    )
    ca_file: FilePath | None = Field(
        None, description="http, s3: PEM of the authorities that count; default: the system's."
    )
    token_file: FilePath | None = Field(
        None, description="http: file with a bearer token; read again for each request."
    )
    redirects: tuple[str, ...] = Field(
        (), description="http: other hosts that a redirect may lead to; they get no token."
    )
    streams: int = Field(4, ge=1, le=16, description="http, s3: parts of a file fetched at once.")
    bandwidth: Annotated[Size, Field(gt=0)] | None = Field(
        None, description="http, s3: most bytes a second, over all streams; default: no limit."
    )
    timeout: Positive = Field(Seconds(10.0), description="http, s3: longest wait for a next byte.")

    @model_validator(mode="after")
    def _fits_type(self) -> BundleStore:
        needed = _STORE_NEEDS[self.type]
        if getattr(self, needed) is None:
            raise ValueError(f"a store of type {self.type} needs `{needed}`")
        for option in sorted(self.model_fields_set - {"type", "poll"}):
            if option not in _STORE_OPTIONS[self.type] and getattr(self, option) is not None:
                raise ValueError(f"`{option}` means nothing to a store of type {self.type}")
        web = self.url or self.endpoint
        if web is not None and ("@" in web or "?" in web or "#" in web):
            raise ValueError("an address with a user, a query or a fragment")
        return self

    @property
    def place(self) -> str:
        """Its path or address, for a message."""
        return str(self.path or self.url or f"s3://{self.bucket}/{self.prefix}".rstrip("/"))
