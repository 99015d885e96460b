"""Ed25519 signatures of manifests: the document `manifest.sig`, and keys from files.

A signature covers a document's exact bytes, so nothing is parsed before it is believed. The file
lists several signatures, each by the id of its key: a new key signs beside the old one until every
agent trusts it, and that is all of a rotation. Private keys are PKCS #8 in PEM, as
`openssl genpkey -algorithm ed25519` writes them. The cryptography library is imported only by what
uses it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.bundles.errors import BundleError, RejectedError
from agent.bundles.manifest import parse_json
from agent.errors import Exit

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEMA = 1
SIGNATURE_LIMIT = 64 * 1024
_MAX_SIGNATURES = 32
_KEY_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_KEY_FILE_LIMIT = 16 * 1024


class KeyFileError(BundleError):
    """A key cannot be read, or is none."""

    exit_code = Exit.USAGE


@dataclass(frozen=True, slots=True)
class Signature:
    """One key's signature of a document."""

    key_id: str
    value: bytes


def check_key_id(text: str) -> str:
    """`text` again, if it can name a key; raises KeyFileError."""
    if not _KEY_ID.fullmatch(text):
        raise KeyFileError(
            f"{text[:64]!a} is no key id", "use letters, digits, '.', '_' and '-', at most 64"
        )
    return text


def parse_signatures(raw: bytes) -> tuple[Signature, ...]:
    """Read `manifest.sig`.

    Raises:
        RejectedError: it is not what `compose_signatures` writes.
    """
    where = "manifest.sig"
    if len(raw) > SIGNATURE_LIMIT:
        raise RejectedError(f"{where} is larger than {SIGNATURE_LIMIT} bytes")
    tree = parse_json(raw, where)
    listed = tree.get("signatures")
    if set(tree) != {"schema", "signatures"} or tree["schema"] is not SCHEMA:
        raise RejectedError(f"{where} is not an object of `schema` {SCHEMA} and `signatures`")
    if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_SIGNATURES:
        raise RejectedError(f"{where}: `signatures` is not a list of 1 to {_MAX_SIGNATURES}")
    found = tuple(
        parse_signature(item, f"{where}: signatures[{n}]") for n, item in enumerate(listed)
    )
    if len({item.key_id for item in found}) != len(found):
        raise RejectedError(f"{where}: a key has signed twice")
    return found


def parse_signature(item: object, where: str) -> Signature:
    """One signature as it stands in a document; raises RejectedError."""
    if not isinstance(item, dict) or set(item) != {"key_id", "ed25519"}:
        raise RejectedError(f"{where} is not an object of exactly `key_id` and `ed25519`")
    key_id, text = item["key_id"], item["ed25519"]
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise RejectedError(f"{where}: `key_id` is no key id")
    try:
        value = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != 64:
        raise RejectedError(f"{where}: `ed25519` is not base64 of 64 bytes")
    return Signature(key_id, value)


def told(signature: Signature) -> dict[str, str]:
    """A signature as it stands in a document."""
    return {
        "key_id": signature.key_id,
        "ed25519": base64.b64encode(signature.value).decode("ascii"),
    }


def compose_signatures(signatures: Sequence[Signature]) -> bytes:
    """The bytes of `manifest.sig`; the same signatures give the same bytes."""
    listed = [told(item) for item in sorted(signatures, key=lambda item: item.key_id)]
    return (json.dumps({"schema": SCHEMA, "signatures": listed}, indent=1) + "\n").encode()


def add_signature(raw: bytes | None, signature: Signature) -> bytes:
    """`manifest.sig` with one more signature; an earlier one by the same key gives way.

    Raises:
        RejectedError: `raw`, the file as it is, is none.
    """
    before = parse_signatures(raw) if raw is not None else ()
    kept = [item for item in before if item.key_id != signature.key_id]
    return compose_signatures([*kept, signature])


def sign(document: bytes, key: Ed25519PrivateKey, key_id: str) -> Signature:
    """The signature of `document`'s exact bytes."""
    return Signature(check_key_id(key_id), key.sign(document))


def good_keys(
    document: bytes, signatures: Sequence[Signature], trusted: Mapping[str, bytes]
) -> list[str]:
    """Ids of the trusted keys whose signature of `document` is good; a key counts once, even
    where two ids name it."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    good: dict[bytes, str] = {}
    for item in signatures:
        raw = trusted.get(item.key_id)
        if raw is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(raw).verify(item.value, document)
        except InvalidSignature:
            continue
        good.setdefault(raw, item.key_id)
    return sorted(good.values())


def private_key(raw: bytes, where: str) -> Ed25519PrivateKey:
    """A private key from PEM.

    Raises:
        KeyFileError: it is encrypted, of another kind, or no key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(raw, None)
    except Exception:  # noqa: BLE001  the library's errors may quote what they read
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(
            f"{where} is no unencrypted Ed25519 private key in PEM",
            "make one with `jules-agent bundle new-key FILE`",
        )
    return key


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file that nobody else may read; raises KeyFileError."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise KeyFileError(f"{path} may be read by others", f"chmod 600 {path}")
            return private_key(file.read(_KEY_FILE_LIMIT), str(path))
    except OSError as error:
        raise KeyFileError(f"key {path}: {error.strerror}", "name a readable file") from None


def public_bytes(value: str) -> bytes:
    """A trusted key's 32 bytes, from base64 or from a file (PEM or base64) at an absolute path.

    Raises:
        KeyFileError: the file cannot be read or holds no Ed25519 public key.
    """
    if not value.startswith("/"):
        return base64.b64decode(value, validate=True)
    try:
        with open(value, "rb") as file:
            raw = file.read(_KEY_FILE_LIMIT).strip()
    except OSError as error:
        raise KeyFileError(f"public key {value}: {error.strerror}", "mount it there") from None
    if raw.startswith(b"-----BEGIN"):
        found = _from_pem(raw)
    else:
        try:
            found = base64.b64decode(raw, validate=True)
        except (binascii.Error, ValueError):
            found = b""
    if len(found) != 32:
        raise KeyFileError(
            f"{value} holds no Ed25519 public key", "write PEM, or base64 of its 32 bytes"
        )
    return found


def _from_pem(raw: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(raw)
    except Exception:  # noqa: BLE001  whatever it says, it is no key
        return b""
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else b""


def public_text(key: Ed25519PrivateKey) -> str:
    """The public half as base64, for `bundles.trust.keys`."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode("ascii")


def new_private_key() -> tuple[bytes, str]:
    """A fresh private key in PEM, and its public half as base64."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, public_text(key)
