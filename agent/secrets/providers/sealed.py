"""The format of the local store: pure, from bytes to bytes.

One JSON document. Each entry is AES-256-GCM under a fresh 96-bit nonce, with the secret's name as
associated data, so that entries cannot be exchanged. `seal` is a GCM tag over everything else in
the document (names, entries, generation, key derivation), so that a removal, an edit or an older
entry put back is found. A document is read only in the one form that we write, so that no byte of
the file is free to change. Entries and seal use separate keys, derived by HKDF from the master key.
`key_check` tells a wrong key from a damaged store. Names and sizes are readable without the key;
values, types and descriptions are not. docs/local-store.md describes the format for other readers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.secrets.errors import StoreError, WrongKeyError

FORMAT = "jules-agent-secrets"
VERSION = 1
KEY_BYTES = 32
NONCE_BYTES = 12
SCRYPT = {"name": "scrypt", "n": 2**15, "r": 8, "p": 3}
"""32 MiB and about 0.2 s: of the settings that OWASP holds equal, the one that fits a small pod."""
_MAX_SCRYPT_MEMORY = 256 * 1024 * 1024
MAX_BYTES = 64 * 1024 * 1024
CONTENT: dict[str, type | tuple[type, ...]] = {
    "value": str,
    "kind": str,
    "type": str,
    "description": str,
    "version": str,
    "created_at": (int, float),
    "updated_at": (int, float),
}
"""What an entry says once decrypted; `value` is base64."""

_REMEDY = "restore the file from its .previous or a backup; it was left as it is"


@dataclass(slots=True)
class Document:
    """The parsed store: still sealed, entries still encrypted."""

    kdf: dict[str, Any]
    key_check: str = ""
    generation: int = 0
    entries: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """The two working keys and the check value, derived from one master key."""

    entry: bytes
    seal: bytes
    check: str

    @classmethod
    def derive(cls, master: bytes) -> Keys:
        """HKDF-SHA256 expand (RFC 5869) with one label a purpose; `master` is 32 random bytes or
        scrypt's output, so the extract step is not needed."""
        return cls(
            _expand(master, b"entry"),
            _expand(master, b"seal"),
            _expand(master, b"check").hex()[:16],
        )


def _expand(master: bytes, label: bytes) -> bytes:
    info = FORMAT.encode() + b" " + label
    return hmac.new(master, info + b"\x01", hashlib.sha256).digest()


def new_document(*, passphrase: bool) -> Document:
    """An empty store; with a passphrase it carries its own salt."""
    if not passphrase:
        return Document({"name": "none"})
    return Document({**SCRYPT, "salt": base64.b64encode(secrets.token_bytes(16)).decode()})


def master_key(document: Document, given: bytes) -> bytes:
    """The master key: `given` itself, or scrypt (RFC 7914) of it as the document says.

    Raises:
        StoreError: the document's parameters are not ones that we would have written.
    """
    kdf = document.kdf
    if kdf.get("name") == "none":
        return given
    try:
        n, r, p = int(kdf["n"]), int(kdf["r"]), int(kdf["p"])
        salt = base64.b64decode(kdf["salt"], validate=True)
        if not 2**14 <= n <= 2**20 or n & (n - 1) or not 1 <= p <= 4 or not 1 <= r <= 32:
            raise ValueError
        if 128 * n * r > _MAX_SCRYPT_MEMORY or len(salt) < 16:
            raise ValueError
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise StoreError("the store names a key derivation that is not sound", _REMEDY) from None
    memory = _MAX_SCRYPT_MEMORY + 1024 * 1024
    return hashlib.scrypt(given, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=KEY_BYTES)


def parse(data: bytes) -> tuple[Document, dict[str, str]]:
    """The document and its seal.

    Raises:
        StoreError: truncated, not a store, or of a later version.
    """
    if len(data) > MAX_BYTES:
        raise StoreError("the store is larger than any we write", _REMEDY)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        raise StoreError("the store is truncated or is no store", _REMEDY) from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise StoreError("the file is not a jules-agent secret store", "check secrets.local.path")
    if tree.get("version") != VERSION:
        raise StoreError("the store was written by a later release", "upgrade the agent")
    entries, seal, kdf = tree.get("entries"), tree.get("seal"), tree.get("kdf")
    if (
        not isinstance(entries, dict)
        or not all(_is_box(box) for box in entries.values())
        or not isinstance(seal, dict)
        or not _is_box(seal)
        or not isinstance(kdf, dict)
        or not isinstance(tree.get("generation"), int)
        or not isinstance(tree.get("key_check"), str)
    ):
        raise StoreError("the store lacks parts that every store has", _REMEDY)
    if _text(tree) != data:
        raise StoreError("the store is not in the form that it is written in", _REMEDY)
    return Document(kdf, tree["key_check"], tree["generation"], entries), seal


def _text(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=1, sort_keys=True).encode() + b"\n"


def _is_box(box: object) -> bool:
    return (
        isinstance(box, dict)
        and set(box) == {"nonce", "data"}
        and all(isinstance(part, str) for part in box.values())
    )


def unseal(document: Document, seal: dict[str, str], master: bytes) -> Keys:
    """Check the seal with the master key; returns the working keys.

    Raises:
        WrongKeyError: the key is another one.
        StoreError: the store was changed by someone without the key.
    """
    keys = Keys.derive(master)
    if not hmac.compare_digest(keys.check.encode(), document.key_check.encode()):
        raise WrongKeyError(
            "the key does not fit the store", "use the key or passphrase it was written with"
        )
    try:
        _decrypt(keys.seal, seal, _sealed_bytes(document))
    except InvalidTag:
        raise StoreError("the store was changed after it was written", _REMEDY) from None
    return keys


def serialise(document: Document, keys: Keys) -> bytes:
    """The file's bytes, freshly sealed."""
    document.key_check = keys.check
    tree = {
        **json.loads(_sealed_bytes(document)),
        "seal": _encrypt(keys.seal, b"", _sealed_bytes(document)),
    }
    return _text(tree)


def put_entry(document: Document, keys: Keys, name: str, content: dict[str, Any]) -> None:
    """Encrypt `content` (JSON-able) as entry `name`."""
    document.entries[name] = _encrypt(keys.entry, json.dumps(content).encode(), name.encode())


def get_entry(document: Document, keys: Keys, name: str) -> dict[str, Any] | None:
    """The content of entry `name`, or None.

    Raises:
        StoreError: the entry does not decrypt under its name.
    """
    box = document.entries.get(name)
    if box is None:
        return None
    try:
        content = json.loads(_decrypt(keys.entry, box, name.encode()))
    except (InvalidTag, ValueError):
        raise StoreError("an entry of the store is damaged", _REMEDY) from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), kinds) for key, kinds in CONTENT.items()
    ):
        raise StoreError(f"the entry of {name} is not one that we write", _REMEDY)
    return content


def _sealed_bytes(document: Document) -> bytes:
    tree = {
        "format": FORMAT,
        "version": VERSION,
        "kdf": document.kdf,
        "key_check": document.key_check,
        "generation": document.generation,
        "entries": document.entries,
    }
    return json.dumps(tree, separators=(",", ":"), sort_keys=True).encode()


def _encrypt(key: bytes, plain: bytes, about: bytes) -> dict[str, str]:
    nonce = secrets.token_bytes(NONCE_BYTES)
    data = AESGCM(key).encrypt(nonce, plain, about)
    return {"nonce": base64.b64encode(nonce).decode(), "data": base64.b64encode(data).decode()}


def _decrypt(key: bytes, box: dict[str, str], about: bytes) -> bytes:
    nonce, data = _strict(box["nonce"]), _strict(box["data"])
    if len(nonce) != NONCE_BYTES:
        raise InvalidTag
    return AESGCM(key).decrypt(nonce, data, about)


def _strict(text: str) -> bytes:
    """Base64 in its one canonical form: the unused bits of a last digit are not free to change."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidTag from None
    if base64.b64encode(data).decode() != text:
        raise InvalidTag
    return data
