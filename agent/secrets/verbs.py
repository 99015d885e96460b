"""What the command line does with the local store, as plain functions."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from agent.clock import SystemClock
from agent.config import Secrets
from agent.secrets.errors import KeyFileError
from agent.secrets.model import Fetched, Kind, Listed, SecretType, secret_name
from agent.secrets.providers.sealed import KEY_BYTES
from agent.secrets.service import local_store


def put(
    config: Secrets,
    name: str,
    value: bytes,
    *,
    kind: Kind = "json",
    secret_type: SecretType = SecretType.API_KEY,
    description: str = "",
) -> str:
    """Store a new version in the local store; returns the version. Raises SecretsError."""
    store = local_store(config, SystemClock())
    return store.write(
        secret_name(name), value, kind=kind, secret_type=secret_type, description=description
    )


def get(config: Secrets, name: str) -> Fetched:
    """One secret of the local store. Raises SecretsError."""
    return local_store(config, SystemClock()).read(secret_name(name))


def list_names(config: Secrets) -> list[Listed]:
    """What the local store holds, without values. Raises SecretsError."""
    return local_store(config, SystemClock()).list()


def new_key_file(path: Path) -> None:
    """Write 32 random bytes to a new file, mode 0600.

    Raises:
        KeyFileError: it exists (a key is never replaced) or cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        raise KeyFileError(
            f"{path} exists already", "a key is never replaced: name another file"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}", "name a folder you can write to") from None
    try:
        os.write(fd, secrets.token_bytes(KEY_BYTES))
        os.fsync(fd)
    finally:
        os.close(fd)
