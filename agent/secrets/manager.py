"""The trading system's own calls, as its scripts write them, over our store and cache.

    secrets_manager = create_secrets_manager()
    await secrets_manager.put_secret("database/main", {...}, SecretType.DATABASE_PASSWORD, "…")
    creds = await secrets_manager.get_database_credentials("main")

A failure returns None or False, as it always has, and logs the typed reason.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.clock import Clock, SystemClock
from agent.errors import AgentError
from agent.secrets.cache import Cache
from agent.secrets.errors import SecretsError, ShapeError, UnavailableError
from agent.secrets.model import (
    Fetched,
    Secret,
    SecretMetadata,
    SecretProvider,
    SecretType,
    secret_name,
)
from agent.secrets.providers.local import LocalStore
from agent.secrets.typed import Typed, parse
from agent.secrets.verbs import new_key_file
from agent.telemetry.logs import get_logger
from agent.telemetry.redaction import REDACTOR
from agent.units import Seconds

_log = get_logger(__name__)

__all__ = ["Secret", "SecretProvider", "SecretType", "SecretsManager", "create_secrets_manager"]


class SecretsManager:
    """One store behind a cache of five minutes."""

    def __init__(self, store: LocalStore, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._cache = Cache(self._load, self._clock, ttl=Seconds(300.0), max_stale=Seconds(86400.0))

    async def get_secret(self, secret_id: str, use_cache: bool = True) -> Secret | None:
        """The secret, or None when there is none or it cannot be read."""
        try:
            name = secret_name(secret_id)
            read = self._cache.get if use_cache else self._cache.refresh
            return self._as_secret(await asyncio.to_thread(read, name))
        except AgentError as error:
            _log.error("secret not read", secret=secret_id, error=error.told())
            return None

    async def put_secret(
        self,
        secret_id: str,
        secret_value: str | dict[str, Any],
        secret_type: SecretType,
        description: str = "",
    ) -> bool:
        """Store a new version; False when that failed."""
        try:
            name = secret_name(secret_id)
            data = _encoded(secret_value)
            REDACTOR.learn(name, data)
            await asyncio.to_thread(
                self._store.write,
                name,
                data,
                kind="json",
                secret_type=secret_type,
                description=description,
            )
            await asyncio.to_thread(self._cache.refresh, name)
        except AgentError as error:
            _log.error("secret not stored", secret=secret_id, error=error.told())
            return False
        return True

    async def get_database_credentials(self, database_name: str) -> dict[str, Any] | None:
        """The fields of `database/NAME`."""
        return await self._fields(f"database/{database_name}")

    async def get_s3_credentials(self) -> dict[str, Any] | None:
        """The fields of `aws/s3_credentials`."""
        return await self._fields("aws/s3_credentials")

    async def get_broker_credentials(self, broker_name: str) -> dict[str, Any] | None:
        """The fields of `broker/NAME`."""
        return await self._fields(f"broker/{broker_name}")

    async def get_api_key(self, service_name: str) -> str | None:
        """The text of `api_key/NAME`."""
        secret = await self.get_secret(f"api_key/{service_name}")
        return secret.get_string_value() if secret else None

    async def get_typed(self, secret_id: str, secret_type: SecretType) -> Typed | None:
        """The secret in the fields of its type (`agent.secrets.typed`); None where it lacks one."""
        try:
            fetched = await asyncio.to_thread(self._cache.get, secret_name(secret_id))
            return parse(fetched.name, secret_type, fetched.value.reveal())
        except AgentError as error:
            _log.error("secret not read", secret=secret_id, error=error.told())
            return None

    def clear_cache(self) -> None:
        """Forget every value; the next read asks the store."""
        self._cache.clear()

    async def _fields(self, secret_id: str) -> dict[str, Any] | None:
        secret = await self.get_secret(secret_id)
        return secret.get_dict_value() if secret else None

    def _load(self, name: str) -> Fetched:
        fetched = self._store.read(secret_name(name))
        REDACTOR.learn(name, fetched.value.reveal())
        return fetched

    def _as_secret(self, fetched: Fetched) -> Secret:
        text, value = _decoded(fetched)
        return Secret(
            fetched.name,
            value if isinstance(value, str | dict) else text,
            SecretMetadata(
                secret_id=fetched.name,
                secret_type=fetched.secret_type,
                provider=SecretProvider.LOCAL_ENCRYPTED,
                created_at=fetched.created_at or 0.0,
                last_accessed=self._clock.now(),
                tags={"description": fetched.description},
            ),
        )


def _encoded(value: object) -> bytes:
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError, RecursionError):
        raise ShapeError(
            "the value is neither text nor a JSON object", "bytes: jules-agent secrets put --raw"
        ) from None


def _decoded(fetched: Fetched) -> tuple[str, Any]:
    """The value as text and as what it stands for."""
    try:
        text = fetched.value.reveal().decode()
        return text, json.loads(text) if fetched.kind == "json" else text
    except (ValueError, RecursionError):
        raise ShapeError(
            f"secret {fetched.name} is not text", "read it with: jules-agent secrets get"
        ) from None


def create_secrets_manager(environ: Mapping[str, str] | None = None) -> SecretsManager:
    """A manager as the environment says.

    `SECRETS_STORAGE_PATH` names the folder (default ./secrets), `SECRETS_KEY_FILE` the key. Without
    one, `SECRETS_MASTER_PASSWORD` is used, with a warning; without that, a key file is made beside
    the store, with a warning.

    Raises:
        UnavailableError: the environment is staging or production, whose providers (AWS Secrets
            Manager, Vault) are not part of this release, and SECRETS_PROVIDERS=local is not set.
    """
    environ = os.environ if environ is None else environ
    environment = environ.get("ENVIRONMENT", "development")
    if environment in ("production", "staging") and environ.get("SECRETS_PROVIDERS") != "local":
        raise UnavailableError(
            f"{environment} reads from AWS Secrets Manager and Vault, which this release lacks",
            "set SECRETS_PROVIDERS=local to use the local encrypted store knowingly",
        )
    folder = Path(environ.get("SECRETS_STORAGE_PATH", "./secrets")).absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = folder / "secrets.enc"
    if environ.get("SECRETS_KEY_FILE"):
        return SecretsManager(LocalStore(store, key_file=Path(environ["SECRETS_KEY_FILE"])))
    if environ.get("SECRETS_MASTER_PASSWORD"):
        _log.warning(
            "the store's passphrase is in the environment, where every child process and every"
            " crash report sees it; put a key into a file and set SECRETS_KEY_FILE"
        )
        passphrase = environ["SECRETS_MASTER_PASSWORD"].encode()
        return SecretsManager(LocalStore(store, passphrase=passphrase))
    key = folder / "secrets.key"
    if not key.exists():
        _log.warning("a key was made beside the store; keep it elsewhere", key_file=str(key))
        try:
            new_key_file(key)
        except SecretsError:
            if not key.exists():  # else another process has just made it
                raise
    return SecretsManager(LocalStore(store, key_file=key))
