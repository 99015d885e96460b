"""The trading system's own calls, as its scripts write them, over our providers and cache.

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
from typing import TYPE_CHECKING, Any, TypeAlias

from agent.clock import Clock, SystemClock
from agent.errors import AgentError
from agent.secrets.cache import Cache
from agent.secrets.chain import Chain, Policy
from agent.secrets.environ import providers_from
from agent.secrets.errors import ShapeError
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
from agent.telemetry.logs import get_logger
from agent.telemetry.redaction import REDACTOR
from agent.units import Seconds

if TYPE_CHECKING:
    from agent.secrets.providers.aws.provider import AwsProvider
    from agent.secrets.providers.vault.provider import VaultProvider

_log = get_logger(__name__)

__all__ = ["Secret", "SecretProvider", "SecretType", "SecretsManager", "create_secrets_manager"]


Writable: TypeAlias = "LocalStore | AwsProvider | VaultProvider"

_PROVIDERS = {
    "aws": SecretProvider.AWS_SECRETS_MANAGER,
    "vault": SecretProvider.HASHICORP_VAULT,
    "local": SecretProvider.LOCAL_ENCRYPTED,
}


class SecretsManager:
    """Providers in one chain, behind a cache of five minutes.

    The first provider is the one that is written to. What it cannot take is not written elsewhere:
    the next read would find the older value in it.
    """

    def __init__(
        self, *providers: Writable, clock: Clock | None = None, falls_through: bool = True
    ) -> None:
        """`falls_through`: ask the next provider too where one has no such secret."""
        self._store = providers[0]
        self._clock = clock or SystemClock()
        self._chain = Chain(
            providers,
            lambda _provider, _name, _outcome: None,
            policy=Policy(falls_through=falls_through),
            clock=self._clock,
        )
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

    def close(self) -> None:
        """Close idle connections to servers."""
        self._chain.close()

    def clear_cache(self) -> None:
        """Forget every value; the next read asks the store."""
        self._cache.clear()

    async def _fields(self, secret_id: str) -> dict[str, Any] | None:
        secret = await self.get_secret(secret_id)
        return secret.get_dict_value() if secret else None

    def _load(self, name: str) -> Fetched:
        fetched = self._chain.read(secret_name(name))
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
                provider=_PROVIDERS[fetched.provider],
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
    """A manager over the providers that the environment's variables name (`agent.secrets.environ`):
    production asks AWS, Vault, the local store; staging Vault, AWS, local; development local.

    Raises:
        UnavailableError: no variable says how to reach any of them.
    """
    environ = os.environ if environ is None else environ
    clock = SystemClock()
    providers = providers_from(environ, clock)
    development = (environ.get("ENVIRONMENT") or "development") == "development"
    return SecretsManager(*providers, clock=clock, falls_through=development)
