"""The long-running part: publish, notice changes, repair drift, say how fresh everything is.

Every `check_interval` it looks at the providers' change marker (a stat for the local store). A
change, or a value past its TTL, fetches and publishes anew; otherwise the published files are
compared with what they should be and put right. A failure keeps what is published and is retried at
the next look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.audit import AuditLog
from agent.clock import Clock
from agent.config import Secrets
from agent.errors import UsageError
from agent.health import Condition
from agent.secrets.errors import SecretsError
from agent.secrets.generation import Published
from agent.secrets.model import secret_name
from agent.secrets.service import SecretsService
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.telemetry.redaction import Redactor

_log = get_logger(__name__)


class SecretsJob:
    """Job `secrets`. Its `get` serves the agent's own credentials too."""

    name = "secrets"

    def __init__(
        self,
        config: Secrets,
        *,
        environment: str,
        audit: AuditLog | None,
        recorder: Recorder,
        clock: Clock,
        redactor: Redactor,
    ) -> None:
        def make(section: Secrets) -> SecretsService:
            return SecretsService(
                section,
                environment=environment,
                audit=audit,
                recorder=recorder,
                clock=clock,
                redactor=redactor,
            )

        self._make = make
        self._recorder = recorder
        self._clock = clock
        self._service = self._make(config)
        self._filesystem = self._service.publisher.filesystem()
        self._published: Published | None = None
        self._error: SecretsError | None = None
        self._marker: str | None = None
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Publish now, then whenever something changed, until cancelled."""
        while True:
            await self._look()
            self._wake.clear()
            waiting = asyncio.ensure_future(self._wake.wait())
            try:
                timer = self._clock.sleep(self._service.config.check_interval)
                await _first(waiting, asyncio.ensure_future(timer))
            finally:
                waiting.cancel()

    async def drain(self) -> None:
        """Nothing is pending here: what is published stays for the trader."""

    async def refresh(self) -> Mapping[str, Any]:
        """Ask the providers now and publish.

        Raises:
            SecretsError: nothing was published.
        """
        result = await self._publish(refresh=True)
        return {"generation": result.generation, "changed": result.changed, "files": result.files}

    def get(self, name: str) -> bytes:
        """One secret's bytes through the cache; blocking on a miss. Raises SecretsError."""
        return self._service.get(name)

    def prepare(self, section: Secrets) -> Callable[[], None]:
        """Check that `section` can be taken over; the closure takes it over.

        Raises:
            UsageError: the directory would move under the trader's feet.
        """
        if section.directory != self._service.config.directory:
            raise UsageError("secrets.directory cannot change while running", "restart the agent")
        if section == self._service.config:
            return lambda: None
        fresh = self._make(section)
        fresh.publisher.published_at = self._service.publisher.published_at

        def commit() -> None:
            old, self._service = self._service, fresh
            old.cache.clear()
            self._marker = None
            self._wake.set()

        return commit

    async def _look(self) -> None:
        marker = await asyncio.to_thread(self._service.chain.marker)
        changed = marker != self._marker
        try:
            result = await self._publish(refresh=changed and self._published is not None)
        except SecretsError as error:
            _log.warning("secrets not published", error=error.told())
            return
        self._marker = marker
        for what in result.repaired:
            _log.warning("published secrets were changed by somebody else; put right", what=what)

    async def _publish(self, *, refresh: bool) -> Published:
        async with self._lock:
            service = self._service
            try:
                result = await asyncio.to_thread(service.publish, refresh=refresh)
                await asyncio.to_thread(service.publisher.tidy)
            except SecretsError as error:
                self._error = error
                raise
            finally:
                self._tell_ages()
            self._error = None
            if result.changed:
                _log.info("secrets published", generation=result.generation, files=result.files)
            self._published = result
            return result

    def _tell_ages(self) -> None:
        for item in self._service.config.items:
            age = self._service.cache.age(secret_name(item.name))
            if age is not None:
                self._recorder.set("secret_age_seconds", age, secret=item.name)

    # -- what the others see ------------------------------------------------------------------

    def why_not(self) -> str | None:
        """Why the trader's secrets are not fresh enough for a flip; None when they are."""
        if self._published is None:
            return f"no generation of secrets is published: {self._error or 'not fetched yet'}"
        late = [item["name"] for item in self._items() if item["required"] and item["expired"]]
        return f"secrets past max_stale: {', '.join(late)}" if late else None

    def conditions(self) -> Sequence[Condition]:
        reason = self.why_not()
        remedy = self._error.remedy if self._error else ""
        found = [
            Condition(
                "secrets-published",
                ok=reason is None,
                reason=reason or f"generation {self._generation()} is published",
                remedy=remedy if reason else "",
            )
        ]
        stale = [item["name"] for item in self._items() if item["stale"]]
        problem = str(self._error) if self._error else ""
        if problem or stale:
            told = problem or f"served from memory, past their TTL: {', '.join(stale)}"
            found.append(
                Condition("secrets-fresh", ok=False, reason=told, remedy=remedy, gates_ready=False)
            )
        else:
            found.append(
                Condition("secrets-fresh", ok=True, reason="every secret is", gates_ready=False)
            )
        return found

    def snapshot(self) -> Mapping[str, Any]:
        service = self._service
        return {
            "directory": str(service.config.directory),
            "filesystem": self._filesystem,
            "generation": self._generation(),
            "published_at": service.publisher.published_at,
            "items": [
                {key: value for key, value in item.items() if key != "expired"}
                for item in self._items()
            ],
            "cache": {
                "hits": service.cache.hits,
                "misses": service.cache.misses,
                "hit_rate": round(service.cache.hit_rate, 4),
            },
        }

    def _generation(self) -> int | None:
        return self._published.generation if self._published else None

    def _items(self) -> list[dict[str, Any]]:
        service = self._service
        found = []
        for item in service.config.items:
            name = secret_name(item.name)
            entry = service.cache.peek(name)
            fetched = entry.fetched if entry else None
            age = service.cache.age(name)
            error = service.errors.get(name) or (entry.error if entry else None)
            found.append(
                {
                    "name": item.name,
                    "path": item.target,
                    "provider": fetched.provider if fetched else None,
                    "version": fetched.version if fetched else None,
                    "fetched_at": fetched.fetched_at if fetched else None,
                    "age_seconds": round(age, 1) if age is not None else None,
                    "stale": age is not None and age > 2 * service.config.cache_ttl,
                    "expired": age is None or age > service.config.max_stale,
                    "required": item.required,
                    "error": str(error) if error else None,
                }
            )
        return found


async def _first(*work: asyncio.Future[Any]) -> None:
    try:
        await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in work:
            task.cancel()
