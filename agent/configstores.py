"""The sections that say where bundles come from and whose signature counts."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from agent.configtypes import Section

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
