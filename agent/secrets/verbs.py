"""What the command line does with the local store, as plain functions.

Where the agent's state folder is, each access is recorded in its audit log first or the access is
refused; where there is none (a workstation that prepares a store), there is no log to write to.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agent import fs
from agent.audit import AuditLog
from agent.clock import SystemClock
from agent.configsecrets import Secrets
from agent.errors import AgentError, UsageError
from agent.secrets import transfer
from agent.secrets.errors import KeyFileError
from agent.secrets.model import Fetched, Kind, Listed, SecretType, secret_name
from agent.secrets.providers.keyfile import parse_key, read_private
from agent.secrets.providers.sealed import KEY_BYTES
from agent.secrets.service import local_store
from agent.units import SecretName

_NO_LOGIN = 2**32 - 1


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
    store = local_store(config, SystemClock(), state)
    checked = secret_name(name)
    with recorded(state, "secret.write", checked) as detail:
        version = detail["version"] = store.write(
            checked, value, kind=kind, secret_type=secret_type, description=description
        )
    return version


def get(config: Secrets, name: str, *, state: Path | None = None) -> Fetched:
    """One secret of the local store. Raises AgentError."""
    checked = secret_name(name)
    with recorded(state, "secret.read", checked) as detail:
        fetched = local_store(config, SystemClock(), state).read(checked)
        detail["version"] = fetched.version
    return fetched


@contextmanager
def recorded(
    state: Path | None, action: str, name: str, provider: str = "local"
) -> Iterator[dict[str, Any]]:
    """Record in the audit log at `state`, if there is one, what the body did."""
    detail: dict[str, Any] = {"provider": provider, **who()}
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


def who() -> dict[str, Any]:
    """Who asks, for the audit log: this process's uid, and the one that logged in where the kernel
    knows it (`/proc/self/loginuid`: it stays the same through sudo)."""
    told: dict[str, Any] = {"uid": os.getuid()}
    with suppress(OSError, ValueError):
        login = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
        if login != _NO_LOGIN:
            told["login_uid"] = login
    return told


def delete(config: Secrets, name: str, *, state: Path | None = None) -> None:
    """Remove one secret from the local store. Raises AgentError."""
    checked = secret_name(name)
    with recorded(state, "secret.delete", checked):
        local_store(config, SystemClock(), state).delete(checked)


def previous(config: Secrets, name: str, *, state: Path | None = None) -> bytes:
    """The value before the current one. Raises AgentError."""
    checked = secret_name(name)
    with recorded(state, "secret.read", checked) as detail:
        value, version = transfer.previous_value(local_store(config, SystemClock(), state), checked)
        detail["version"] = version
    return value


def rekey(
    config: Secrets, new_key: Path | None, *, offline: bool = False, state: Path | None = None
) -> tuple[int, Path]:
    """Encrypt the store anew; returns how many secrets it holds and the key's file.

    Raises:
        UsageError: no new key is named, or a running agent could not read the store afterwards.
        AgentError: nothing was changed.
    """
    expected = config.local.next_key_file
    path = new_key or expected
    if path is None:
        raise UsageError("no new key is named", "set secrets.local.next_key_file, or --new-key")
    if path != expected and not offline:
        raise UsageError(
            f"an agent with this configuration could not read a store under {path}",
            "name it in secrets.local.next_key_file and reload first; --offline if none runs",
        )
    key = parse_key(read_private(path), path)
    with recorded(state, "store.rekey", str(config.local.path)):
        return local_store(config, SystemClock(), state).rekey(key), path


def export(
    config: Secrets, target: Path, passphrase_file: Path, *, state: Path | None = None
) -> list[SecretName]:
    """Write the whole store to a new file under a passphrase. Raises AgentError."""
    with recorded(state, "store.export", str(target)) as detail:
        names = transfer.export(local_store(config, SystemClock(), state), target, passphrase_file)
        detail["names"] = names
    return names


def import_from(
    config: Secrets,
    source: Path,
    passphrase_file: Path,
    *,
    replace: bool = False,
    state: Path | None = None,
) -> dict[SecretName, str]:
    """Take in an export; returns the new versions. Raises AgentError: nothing was changed."""
    with recorded(state, "store.import", str(source)) as detail:
        store = local_store(config, SystemClock(), state)
        versions = transfer.import_from(store, source, passphrase_file, replace=replace)
        detail["versions"] = dict(versions)
    return versions


def accept_older(config: Secrets, *, state: Path | None = None) -> int:
    """Take the store as it is for the newest; returns its generation. Raises AgentError."""
    with recorded(state, "store.accept", str(config.local.path)) as detail:
        detail["generation"] = local_store(config, SystemClock(), state).accept_older()
    return int(detail["generation"])


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
