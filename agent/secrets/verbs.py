"""What the command line does with the local store, as plain functions.

Where the agent's state folder is, each access is recorded in its audit log first or the access is
refused; where there is none (a workstation that prepares a store), there is no log to write to.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent import fs
from agent.audit import AuditLog
from agent.clock import SystemClock
from agent.config import Secrets
from agent.errors import AgentError
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
    state: Path | None = None,
) -> str:
    """Store a new version in the local store; returns the version. Raises AgentError."""
    store = local_store(config, SystemClock())
    checked = secret_name(name)
    with _recorded(state, "secret.write", checked) as detail:
        version = detail["version"] = store.write(
            checked, value, kind=kind, secret_type=secret_type, description=description
        )
    return version


def get(config: Secrets, name: str, *, state: Path | None = None) -> Fetched:
    """One secret of the local store. Raises AgentError."""
    checked = secret_name(name)
    with _recorded(state, "secret.read", checked) as detail:
        fetched = local_store(config, SystemClock()).read(checked)
        detail["version"] = fetched.version
    return fetched


@contextmanager
def _recorded(state: Path | None, action: str, name: str) -> Iterator[dict[str, str]]:
    """Record in the audit log at `state`, if there is one, what the body did."""
    detail: dict[str, str] = {"provider": "local"}
    if state is None or not state.is_dir():
        yield detail
        return
    audit = AuditLog(state)  # cannot be opened: nothing is read
    try:
        try:
            yield detail
        except AgentError:
            audit.append("operator", action, name, "failed", detail)
            raise
        audit.append("operator", action, name, "ok", detail)
    finally:
        audit.close()


def list_names(config: Secrets) -> list[Listed]:
    """What the local store holds, without values. Raises SecretsError."""
    return local_store(config, SystemClock()).list()


def new_key_file(path: Path) -> None:
    """Write 32 random bytes to a new file, mode 0600; it appears whole or not at all.

    Raises:
        KeyFileError: it exists (a key is never replaced) or cannot be made.
    """
    temp = path.parent / fs.temp_name()
    try:
        fs.write_durable(temp, secrets.token_bytes(KEY_BYTES), 0o600)
        try:
            os.link(temp, path)  # fails where there is one, whoever has just made it
        finally:
            os.unlink(temp)
        fs.fsync_dir(path.parent)  # a store whose key is lost with the power is lost
    except FileExistsError:
        raise KeyFileError(
            f"{path} exists already", "a key is never replaced: name another file"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}", "name a folder you can write to") from None
