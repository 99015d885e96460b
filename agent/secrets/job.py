"""The long-running part: publish, notice changes, repair drift, say how fresh everything is.

Every `check_interval` it looks at the providers' change marker (a stat for the local store) and at
the published names (an lstat each); where neither moved and no value is past its TTL, that is all.
Otherwise it fetches what is due, compares every byte and puts right what is not as it should be;
every `_FULL_CHECK` it does so in any case. A failure keeps what is published and is retried with a
growing pause, at once when the marker moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.audit import AuditLog
from agent.clock import Clock
from agent.configsecrets import SecretItem, Secrets
from agent.errors import AgentError, UsageError
from agent.health import Condition
from agent.secrets.errors import afresh
from agent.secrets.generation import Published
from agent.secrets.model import secret_name
from agent.secrets.service import SecretsService
from agent.secrets.telling import Teller
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.telemetry.redaction import Redactor
from agent.units import Monotonic, Seconds

_log = get_logger(__name__)

_FULL_CHECK = Seconds(30.0)
_LONGEST_PAUSE = Seconds(30.0)


class SecretsJob:
    """Job `secrets`. Its `own` serves the agent's own credentials."""

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
        self._found = self._service.found()
        self._published: Published | None = None
        self._error: AgentError | None = None
        self._failures = 0
        self._retry_at = Monotonic(0.0)
        self._compare_at = Monotonic(0.0)
        self._marker: str | None = None
        self._tried_marker: str | None = None
        self._wake = asyncio.Event()
        self._teller = Teller(audit.directory if audit else None, recorder, clock)
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Publish now, then whenever something changed, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._teller.run())
            while True:
                self._wake.clear()
                await self._look()
                waiting = asyncio.ensure_future(self._wake.wait())
                every = self._service.config.check_interval
                timer = asyncio.ensure_future(self._clock.sleep(every))
                await _first(waiting, timer)

    async def drain(self) -> None:
        """Nothing is pending here: what is published stays for the trader."""

    async def refresh(self) -> Mapping[str, Any]:
        """Ask the providers now and publish.

        Raises:
            AgentError: nothing was published, or a provider failed and the value before serves on.
        """
        result = await self._publish(refresh=True, why="refresh was asked for")
        for name, error in self._service.unrenewed().items():
            raise type(error)(f"{name} is served from memory: {error}", error.remedy)
        return {"generation": result.generation, "changed": result.changed, "files": result.files}

    async def reissue(self, name: str) -> Mapping[str, Any]:
        """Have an engine issue a leased credential anew, and publish it.

        Raises:
            UsageError: `name` is not leased.
            AgentError: as `refresh`.
        """
        provider = self._service.chain.provider("vault")
        again = getattr(provider, "reissue", None)
        if again is None or not again(secret_name(name)):
            raise UsageError("no engine issues that secret", "see secrets.vault.leased")
        return await self.refresh()

    def get(self, name: str) -> bytes:
        """One secret's bytes through the cache; blocking on a miss. Raises AgentError."""
        return self._service.get(name)

    def own(self, name: str) -> bytes:
        """As `get`, for the agent's own credentials: served even where no record can be kept."""
        return self._service.own(name)

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

        def commit() -> None:
            old, self._service = self._service, fresh
            fresh.publisher.published_at = old.publisher.published_at
            if _same_places(section, old.config):
                fresh.cache.inherit(old.cache)  # a reload while the store is away loses nothing
            old.cache.clear()
            old.chain.close()
            self._marker = self._tried_marker = None
            self._wake.set()

        return commit

    def wipe(self) -> None:
        """Remove everything that was published, for good."""
        try:
            self._service.publisher.wipe()
        except (OSError, AgentError) as error:
            _log.error("published secrets could not be removed", error=str(error))
        else:
            _log.info(
                "published secrets were removed", directory=str(self._service.config.directory)
            )

    # -- one look -------------------------------------------------------------------------------

    async def _look(self) -> None:
        service = self._service
        marker, due, untouched = await asyncio.to_thread(_glance, service)
        now = self._clock.monotonic()
        changed = marker != self._marker
        resting = self._failures > 0 and now < self._retry_at and marker == self._tried_marker
        if resting:
            idle = untouched or self._published is None
        else:
            idle = not (self._failures or changed or due) and untouched and now < self._compare_at
        if idle:
            self._tell_ages()
            return
        self._tried_marker = marker
        try:
            again = changed and not resting
            why = "the store changed" if again and self._marker is not None else "due"
            result = await self._publish(refresh=again, why=why)
        except AgentError as error:
            self._failed(now, error, "secrets not published")
            return
        self._compare_at = Monotonic(now + _FULL_CHECK)
        for what in result.repaired:
            _log.warning("published secrets were changed by somebody else; put right", what=what)
        old = service.unrenewed()
        if old:
            self._failed(now, next(iter(old.values())), "secrets not renewed", names=sorted(old))
        elif service is self._service:  # else a reload came in between: look again
            self._failures, self._marker = 0, marker

    def _failed(self, now: Monotonic, error: AgentError, event: str, **more: object) -> None:
        self._failures += 1
        pause = self._service.config.check_interval * 2.0 ** min(self._failures, 16)
        self._retry_at = Monotonic(now + min(_LONGEST_PAUSE, pause))
        _log.warning(event, error=error.told(), failures=self._failures, **more)

    async def _publish(self, *, refresh: bool, why: str) -> Published:
        async with self._lock:
            service = self._service
            try:
                with service.because(why):  # a context goes along to the thread
                    result = await asyncio.to_thread(service.publish, refresh=refresh)
            except AgentError as error:
                self._error = afresh(error)
                raise
            finally:
                self._tell_ages()
            self._error = None
            if result.changed:
                _log.info("secrets published", generation=result.generation, files=result.files)
            self._published = result
            config = service.config
            await asyncio.to_thread(self._teller.notice, config.directory, config.on_change, result)
            return result

    def _tell_ages(self) -> None:
        for provider in self._service.chain.snapshot():
            up = float(provider["state"] != "open")
            self._recorder.set("secret_provider_up", up, provider=provider["name"])
        self._recorder.set("secret_cache_hit_ratio", self._service.cache.hit_rate)
        self._recorder.set("secret_unproven", len(self._service.proofs.unproven))
        for item in self._service.config.items:
            age = self._service.cache.age(secret_name(item.name))
            if age is not None:
                self._recorder.set("secret_age_seconds", age, secret=item.name)

    # -- what the others see ------------------------------------------------------------------

    def why_not(self) -> str | None:
        """Why the trader's secrets are not fresh enough for a flip; None when they are."""
        items = self._items()
        late = [item["name"] for item in items if item["required"] and item["expired"]]
        if self._published is None and (late or not items):
            return f"no generation of secrets is published: {self._error or 'not fetched yet'}"
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
        old = self._service.unrenewed()
        problem = str(self._error) if self._error else ""
        if old and not self._error:
            name, error = next(iter(old.items()))
            problem, remedy = f"{name} is served from memory: {error}", error.remedy
        if problem or stale:
            told = problem or f"served from memory, past their TTL: {', '.join(stale)}"
            found.append(
                Condition("secrets-fresh", ok=False, reason=told, remedy=remedy, gates_ready=False)
            )
        else:
            found.append(
                Condition("secrets-fresh", ok=True, reason="every secret is", gates_ready=False)
            )
        found.append(self._proven())
        found.append(self._teller.condition())
        denied = dict(self._service.denied)
        if denied:
            name, provider = next(iter(denied.items()))
            others = f" (and {len(denied) - 1} more)" if len(denied) > 1 else ""
            found.append(
                Condition(
                    "secrets-allowed",
                    ok=False,
                    reason=f"{provider} denies {name}{others}",
                    remedy="give the agent's role or policy that name",
                    gates_ready=False,
                )
            )
        else:
            found.append(
                Condition("secrets-allowed", ok=True, reason="no read is denied", gates_ready=False)
            )
        return found

    def _proven(self) -> Condition:
        unproven = list(self._service.proofs.unproven.values())
        if not unproven:
            return Condition(
                "secrets-proven", ok=True, reason="no new value failed its probe", gates_ready=False
            )
        error = unproven[0].error
        others = f" (and {len(unproven) - 1} more)" if len(unproven) > 1 else ""
        return Condition(
            "secrets-proven",
            ok=False,
            reason=f"{error}{others}",
            remedy=error.remedy,
            gates_ready=False,
        )

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
            "providers": service.chain.snapshot(),
            "cache": {
                "hits": service.cache.hits,
                "misses": service.cache.misses,
                "hit_rate": round(service.cache.hit_rate, 4),
            },
        }

    def _generation(self) -> int | None:
        if self._published is not None:
            return self._published.generation
        return self._service.publisher.live_number()

    def _items(self) -> list[dict[str, Any]]:
        return [self._item(item) for item in self._service.config.items]

    def _item(self, item: SecretItem) -> dict[str, Any]:
        service = self._service
        name = secret_name(item.name)
        entry = service.cache.peek(name)
        fetched = entry.fetched if entry else None
        unproven = service.proofs.unproven.get(name)
        error = service.errors.get(name) or (entry.error if entry else None)
        if error is None and unproven is not None:
            error = unproven.error
        told: dict[str, Any] = {"provider": None, "version": None, "fetched_at": None}
        age: float | None = service.cache.age(name)
        if fetched is not None:
            told = {key: getattr(fetched, key) for key in told}
        elif self._published is None and item.target in self._found:
            # An agent that starts while the provider is away: the files of the run before stand,
            # as old as their index says.
            told = {key: self._found[item.target].get(key) for key in told}
            if isinstance(told["fetched_at"], int | float):
                age = max(0.0, self._clock.now() - told["fetched_at"])
        return {
            "name": item.name,
            "path": item.target,
            **told,
            "age_seconds": round(age, 1) if age is not None else None,
            "stale": age is not None and age > 2 * service.config.cache_ttl,
            "expired": age is None or age > service.config.max_stale_of(item),
            "required": item.required,
            "error": str(error) if error else None,
        }


def _same_places(one: Secrets, other: Secrets) -> bool:
    """Whether both read from the same providers, so that what one holds is true of the other."""
    return (one.local, one.vault, one.aws, one.chain) == (
        other.local,
        other.vault,
        other.aws,
        other.chain,
    )


def _glance(service: SecretsService) -> tuple[str, bool, bool]:
    """The providers' marker, whether a value is due, and whether nothing published has moved. What
    is old and past its time is deleted on the way."""
    service.publisher.tidy()
    marker = service.chain.marker()
    return marker, service.next_expiry() <= 0, service.publisher.untouched()


async def _first(*work: asyncio.Future[Any]) -> None:
    try:
        await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in work:
            task.cancel()
