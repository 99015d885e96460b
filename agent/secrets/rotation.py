"""Lead a rotation: have AWS rotate, have Vault issue anew, or make a new value and store it.

A value is made only for what this system decides by itself: passwords, keys, JWT secrets. The rest
of an object (host, user, key id) stays as it is. The new one is written with check-and-set where
the store has it, so that a change made meanwhile is not lost. What still has to learn a new
password (the database) is told by an operator or a rotation function: a `probe` on the item keeps
the agent from publishing it before it works.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.configsecrets import Secrets
from agent.errors import UsageError
from agent.secrets.model import Fetched, Kind, SecretType
from agent.secrets.providers.deadline import Deadline
from agent.units import Seconds, SecretName

if TYPE_CHECKING:
    from agent.secrets.providers.local import LocalStore
    from agent.secrets.providers.vault.provider import VaultProvider

ALPHABETS = {
    "alnum": string.ascii_letters + string.digits,
    "safe": string.ascii_letters + string.digits + "-_.~",
    "ascii": string.ascii_letters + string.digits + "!#%+:=?@-_.~*^",
    "hex": "0123456789abcdef",
}
"""None has a quote, a space or a backslash: connection strings and shells take them as they are."""

_LEAST_BITS = 80
_WITHIN = Seconds(10.0)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the new value is to be like."""

    length: int | None = None
    alphabet: str = "safe"
    field: str | None = None


_FIELDS = {
    SecretType.DATABASE_PASSWORD: "password",
    SecretType.ENCRYPTION_KEY: "key",
    SecretType.JWT_SECRET: "secret",
    SecretType.WEBHOOK_TOKEN: "token",
}


def text(length: int, alphabet: str) -> str:
    """`length` letters of a named alphabet, by the machine's random source.

    Raises:
        UsageError: no such alphabet, or so short that it could be guessed.
    """
    letters = ALPHABETS.get(alphabet)
    if letters is None:
        raise UsageError(f"no such alphabet: {alphabet}", f"use one of {', '.join(ALPHABETS)}")
    if not _LEAST_BITS <= length * (len(letters).bit_length() - 1) <= 1_000_000:
        raise UsageError(
            f"{length} letters of {alphabet} are too few or too many", "the default is 40"
        )
    return "".join(secrets.choice(letters) for _ in range(length))


def renewed(fetched: Fetched, wish: Wish) -> tuple[bytes, Kind]:
    """The secret with a new value in its telling field.

    Raises:
        UsageError: it is of a kind that somebody else issues, or has no such field.
    """
    kind = fetched.secret_type
    field = wish.field or _FIELDS.get(kind)
    if field is None:
        raise UsageError(
            f"{fetched.name} is a {kind.value}, which its service issues",
            "fetch a new one there and put it; --field names a field that is yours to make",
        )
    data = fetched.value.reveal()
    if fetched.kind == "bytes":
        return secrets.token_bytes(wish.length or max(32, len(data))), "bytes"
    tree = _tree(fetched, data)
    if isinstance(tree, str):
        return _stored(fetched, _like(kind, tree, wish))
    if not isinstance(tree, dict) or (field not in tree and wish.field is None):
        raise UsageError(f"{fetched.name} has no field {field}", "name another one by --field")
    before = tree.get(field)
    tree[field] = _like(kind, before if isinstance(before, str) else "", wish)
    return json.dumps(tree).encode(), "json"


def rotate_local(store: LocalStore, name: SecretName, wish: Wish) -> str:
    """Make a new value in the local store; its version. Raises AgentError."""
    fetched = store.read(name)
    data, kind = renewed(fetched, wish)
    return store.write(
        name,
        data,
        kind=kind,
        secret_type=fetched.secret_type,
        description=fetched.description,
    )


def rotate_vault(provider: VaultProvider, config: Secrets, name: SecretName, wish: Wish) -> str:
    """Make a new value in Vault's KV, if nobody has written meanwhile; its version.

    Raises:
        UsageError: an engine issues it: the running agent has the lease.
        SecretsError: nothing was written.
    """
    assert config.vault is not None
    if name in config.vault.leased:
        raise UsageError(
            f"{name} is issued by an engine",
            "ask the running agent: `secrets rotate --provider vault`",
        )
    fetched = provider.read_version(name, None, Deadline(_WITHIN))
    data, kind = renewed(fetched, wish)
    return provider.write(
        name,
        data,
        kind=kind,
        secret_type=fetched.secret_type,
        description=fetched.description,
        cas=int(fetched.version) if config.vault.kv == 2 else None,
    )


def rotate_root(
    provider: VaultProvider, config: Secrets, name: SecretName, connection: str
) -> None:
    """Have Vault's database engine change the password that it itself logs in with.

    Raises:
        UsageError: `name` is not issued by an engine.
        SecretsError: it was not changed, or that is not known.
    """
    assert config.vault is not None
    path = config.vault.leased.get(name)
    if path is None or "/creds/" not in path:
        raise UsageError(
            f"{name} is not issued by a database engine", "name one of secrets.vault.leased"
        )
    if not connection.replace("-", "").replace("_", "").isalnum():
        raise UsageError("not a connection's name", "name it as in `bao list ENGINE/config`")
    mount = path.partition("/creds/")[0]
    provider.session.call("POST", f"{mount}/rotate-root/{connection}", deadline=Deadline(_WITHIN))


def _like(kind: SecretType, before: str, wish: Wish) -> str:
    """A new text of the form of the one before."""
    if kind is SecretType.ENCRYPTION_KEY:
        raw = secrets.token_bytes(wish.length or 32)
        try:
            binascii.unhexlify(before)
        except (binascii.Error, ValueError):
            return base64.b64encode(raw).decode()
        return raw.hex() if before else base64.b64encode(raw).decode()
    least = 64 if kind is SecretType.JWT_SECRET else 40
    return text(wish.length or least, wish.alphabet)


def _tree(fetched: Fetched, data: bytes) -> Any:
    try:
        return json.loads(data) if fetched.kind == "json" else data.decode()
    except (ValueError, RecursionError):
        raise UsageError(
            f"{fetched.name} is neither text nor an object", "put a new value by `secrets put`"
        ) from None


def _stored(fetched: Fetched, made: str) -> tuple[bytes, Kind]:
    if fetched.kind == "json":
        return json.dumps(made).encode(), "json"
    return made.encode(), fetched.kind
