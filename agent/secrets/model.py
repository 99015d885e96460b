"""Names, values and what is known of them.

`SecretValue` is how a value travels: its text forms are masked and it refuses to be pickled, so
that no log line, traceback or cache on disk can hold it by accident. `Secret` and `SecretMetadata`
are the shapes that the library's callers know.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NoReturn

from agent.secrets.errors import ShapeError
from agent.units import SecretName, UnixTime

Kind = Literal["json", "text", "bytes"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
MASK = "[secret]"


def secret_name(text: str) -> SecretName:
    """`text` as a name.

    Raises:
        ShapeError: it is not safe components joined by `/`, or is too long.
    """
    if len(text) > 200 or not _NAME.fullmatch(text):
        raise ShapeError(
            "not a secret's name", "use letters, digits, dot, dash, underscore, parts joined by /"
        )
    return SecretName(text)


class SecretValue:
    """A value in memory. `reveal()` is the only way to it.

    The buffer that this object owns is overwritten when its last holder lets go, or by `wipe()`.
    Copies that Python or a library made on the way (bytes and str are immutable) are out of reach
    until their memory is reused.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data: bytearray | None = None
        self._data = bytearray(data)

    def reveal(self) -> bytes:
        """A copy of the bytes.

        Raises:
            RuntimeError: the value was wiped; an empty one is never passed off for it.
        """
        if self._data is None:
            raise RuntimeError("this secret value was wiped")
        return bytes(self._data)

    def wipe(self) -> None:
        """Overwrite the bytes; the value cannot be revealed afterwards."""
        data, self._data = self._data, None
        if data is not None:
            data[:] = bytes(len(data))

    def __del__(self) -> None:
        self.wipe()

    def __len__(self) -> int:
        return len(self._data or b"")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretValue) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return MASK

    def __reduce_ex__(self, _protocol: Any) -> NoReturn:
        raise TypeError("a secret value is never pickled")


class SecretType(Enum):
    """What a secret is for: the trading system's own kinds."""

    DATABASE_PASSWORD = "database_password"
    API_KEY = "api_key"
    S3_CREDENTIALS = "s3_credentials"
    BROKER_CREDENTIALS = "broker_credentials"
    ENCRYPTION_KEY = "encryption_key"
    JWT_SECRET = "jwt_secret"
    CERTIFICATE = "certificate"
    SSH_KEY = "ssh_key"
    OAUTH_TOKEN = "oauth_token"
    WEBHOOK_TOKEN = "webhook_token"


class SecretProvider(Enum):
    """Where a secret came from, by the names that callers know."""

    AWS_SECRETS_MANAGER = "aws_secrets_manager"
    HASHICORP_VAULT = "hashicorp_vault"
    LOCAL_ENCRYPTED = "local_encrypted"


@dataclass(frozen=True, slots=True)
class Previous:
    """The version before the current one, where a provider keeps it."""

    value: SecretValue
    version: str
    replaced_at: UnixTime
    kind: Kind = "json"


@dataclass(frozen=True, slots=True)
class Fetched:
    """One secret as a provider gave it."""

    name: SecretName
    value: SecretValue
    version: str
    provider: str
    fetched_at: UnixTime
    kind: Kind = "json"
    secret_type: SecretType = SecretType.API_KEY
    description: str = ""
    created_at: UnixTime | None = None
    previous: Previous | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """What is known of a stored secret without its value."""

    name: str
    secret_type: str
    version: str
    updated_at: UnixTime
    description: str


@dataclass(slots=True)
class SecretMetadata:
    """What the library tells about a secret."""

    secret_id: str
    secret_type: SecretType
    provider: SecretProvider
    created_at: float
    last_accessed: float
    expires_at: float | None = None
    rotation_enabled: bool = False
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Secret:
    """A secret as the library returns it. Its repr shows no value."""

    secret_id: str
    value: str | dict[str, Any] = field(repr=False)
    metadata: SecretMetadata

    def __reduce_ex__(self, _protocol: Any) -> NoReturn:
        raise TypeError("a secret is never pickled")

    def get_string_value(self) -> str:
        """The value as text; an object as JSON."""
        return self.value if isinstance(self.value, str) else json.dumps(self.value)

    def get_dict_value(self) -> dict[str, Any]:
        """The value as an object; a plain text under the key `value`."""
        if isinstance(self.value, dict):
            return self.value
        try:
            tree = json.loads(self.value)
        except ValueError:
            return {"value": self.value}
        return tree if isinstance(tree, dict) else {"value": self.value}
