"""The kinds of secret that a trading pod has, with their fields.

A fetched value is checked here by hand and not by a validation library: what those say of a bad
value tends to contain it. An error names the fields that are missing or wrong, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn, TypeVar

from agent.secrets.errors import ShapeError
from agent.secrets.model import MASK, SecretType

_LEAST_KEY = 16
_LEAST_JWT = 32
"""An HMAC key shorter than its hash is weaker than it (RFC 7518, section 3.2)."""


class Typed:
    """One value in its fields. Its repr shows none of them, and it refuses to be pickled."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({MASK})"

    def __reduce_ex__(self, _protocol: Any) -> NoReturn:
        raise TypeError("a secret is never pickled")


@dataclass(frozen=True, slots=True, repr=False)
class DatabasePassword(Typed):
    """`database_password`: PostgreSQL (the default `engine`), MySQL, or Redis."""

    host: str
    password: str
    username: str | None = None
    database: str | None = None
    port: int | None = None
    ssl_mode: str | None = None
    engine: str = "postgresql"


@dataclass(frozen=True, slots=True, repr=False)
class S3Credentials(Typed):
    """`s3_credentials`: AWS S3 or anything that speaks it."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    region: str | None = None
    bucket: str | None = None
    endpoint: str | None = None
    kms_key_id: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class BrokerCredentials(Typed):
    """`broker_credentials`: such as Interactive Brokers (TWS or IB Gateway)."""

    account_id: str
    username: str
    password: str
    host: str | None = None
    port: int | None = None
    client_id: int | None = None
    api_version: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ApiKey(Typed):
    """`api_key`: a bare text, or an object with `key`."""

    key: str


@dataclass(frozen=True, slots=True, repr=False)
class EncryptionKey(Typed):
    """`encryption_key`: bytes; or hex or base64, bare or in an object with `key`."""

    key: bytes


@dataclass(frozen=True, slots=True, repr=False)
class JwtSecret(Typed):
    """`jwt_secret`: a bare text, or an object with `secret`; a PEM key counts as well."""

    secret: str
    algorithm: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class WebhookToken(Typed):
    """`webhook_token`: a bare text, or an object with `url` or `token` (or both)."""

    token: str | None = None
    url: str | None = None


def parse(name: str, kind: SecretType, value: bytes) -> Typed:
    """The value of secret `name` as its type says.

    Raises:
        ShapeError: names every field that is missing or not what it must be; never a value.
    """
    reader = _READERS.get(kind)
    if reader is None:
        known = ", ".join(sorted(kind.value for kind in _READERS))
        raise ShapeError(f"secret {name}: no fields are known of {kind.value}", f"known: {known}")
    problems: list[str] = []
    made = reader(value, problems)
    if problems or made is None:
        told = "; ".join(problems) or "it is not what the type asks for"
        raise ShapeError(
            f"secret {name} is no {kind.value}: {told}",
            f"store it with the fields of {kind.value}: docs/secrets.md lists them",
        )
    return made


T = TypeVar("T", bound=Typed)


def _tree(value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _object(
    model: type[T], required: Callable[[Mapping[str, Any]], tuple[str, ...]]
) -> Callable[[bytes, list[str]], T | None]:
    """A reader of JSON objects with the model's fields; more fields do no harm."""
    kinds = {field.name: str(field.type) for field in fields(model)}  # type: ignore[arg-type]

    def read(value: bytes, problems: list[str]) -> T | None:
        tree = _tree(value)
        if not isinstance(tree, dict):
            problems.append("it is no JSON object")
            return None
        lacks = [name for name in required(tree) if tree.get(name) in (None, "")]
        if lacks:
            problems.append(f"it lacks {', '.join(lacks)}")
        found: dict[str, Any] = {}
        for name, kind in kinds.items():
            given = tree.get(name)
            if given is None:
                continue
            made = _whole(name, given) if kind.startswith("int") else _text(given)
            if made is None:
                problems.append(f"{name} is not {'a number' if kind.startswith('int') else 'text'}")
            found[name] = made
        return None if problems else model(**found)

    return read


def _text(given: object) -> str | None:
    return given if isinstance(given, str) else None


def _whole(name: str, given: object) -> int | None:
    """A whole number, as number or as text; a port is one that exists."""
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 10:
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int):
        return None
    return given if name != "port" or 0 < given < 65536 else None


def _bare(value: bytes, field: str, problems: list[str]) -> tuple[str | None, Mapping[str, Any]]:
    """A text that stands alone, or is one field of an object."""
    tree = _tree(value)
    if isinstance(tree, dict):
        given = tree.get(field)
        if given in (None, ""):
            problems.append(f"it lacks {field}")
        elif not isinstance(given, str):
            problems.append(f"{field} is not text")
        return (given if isinstance(given, str) and given else None), tree
    if isinstance(tree, str):
        text: str | None = tree
    else:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = None
    if not text or not text.strip():
        problems.append("it is empty" if text is not None else "it is not text")
        return None, {}
    return text, {}


def _api_key(value: bytes, problems: list[str]) -> ApiKey | None:
    text, _ = _bare(value, "key", problems)
    return ApiKey(text) if text else None


def _encryption_key(value: bytes, problems: list[str]) -> EncryptionKey | None:
    tree = _tree(value)
    if isinstance(tree, dict | str):
        text, _ = _bare(value, "key", problems)
        key = _decoded(text) if text else None
        if text and key is None:
            problems.append("key is neither hex nor base64")
    else:
        key = _decoded(value.decode("ascii", "replace")) or value
    if key is not None and len(key) < _LEAST_KEY:
        problems.append(f"key is shorter than {_LEAST_KEY} bytes")
    return EncryptionKey(key) if key else None


def _decoded(text: str) -> bytes | None:
    text = text.strip()
    for decode in (binascii.unhexlify, lambda raw: base64.b64decode(raw, validate=True)):
        try:
            return decode(text)
        except (binascii.Error, ValueError):
            continue
    return None


def _jwt_secret(value: bytes, problems: list[str]) -> JwtSecret | None:
    text, tree = _bare(value, "secret", problems)
    if text is None:
        return None
    if len(text.encode("utf-8", "surrogatepass")) < _LEAST_JWT:
        problems.append(f"secret is shorter than {_LEAST_JWT} bytes")
    algorithm = tree.get("algorithm")
    if algorithm is not None and not isinstance(algorithm, str):
        problems.append("algorithm is not text")
        return None
    return JwtSecret(text, algorithm)


def _webhook_token(value: bytes, problems: list[str]) -> WebhookToken | None:
    tree = _tree(value)
    if isinstance(tree, dict):
        given = {name: tree.get(name) for name in ("token", "url")}
        wrong = [name for name, part in given.items() if not isinstance(part, str | None)]
        problems.extend(f"{name} is not text" for name in wrong)
        if not any(given.values()):
            problems.append("it lacks url or token")
        return None if problems else WebhookToken(**given)
    text, _ = _bare(value, "token", problems)
    if text is None:
        return None
    return WebhookToken(url=text) if "://" in text else WebhookToken(token=text)


def _database_fields(tree: Mapping[str, Any]) -> tuple[str, ...]:
    if tree.get("engine") == "redis":
        return ("host", "password")
    return ("host", "database", "username", "password")


_READERS: dict[SecretType, Callable[[bytes, list[str]], Typed | None]] = {
    SecretType.DATABASE_PASSWORD: _object(DatabasePassword, _database_fields),
    SecretType.S3_CREDENTIALS: _object(
        S3Credentials, lambda _: ("access_key_id", "secret_access_key")
    ),
    SecretType.BROKER_CREDENTIALS: _object(
        BrokerCredentials, lambda _: ("account_id", "username", "password")
    ),
    SecretType.API_KEY: _api_key,
    SecretType.ENCRYPTION_KEY: _encryption_key,
    SecretType.JWT_SECRET: _jwt_secret,
    SecretType.WEBHOOK_TOKEN: _webhook_token,
}
