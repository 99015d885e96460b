"""The dead man's ping: an outside service hears from us while rules are evaluated, and only then.

The service alarms when the pings stop. They stop when the process dies, when its loop hangs (this
is a task of that loop), and when no evaluation has ended for three intervals of the rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agent.alerts.errors import DeliveryError
from agent.alerts.exchange import Connection, ExchangeError, is_safe
from agent.alerts.notifiers.base import Credential, Learn, SecretReader
from agent.clock import Clock
from agent.configrouting import DeadMan
from agent.health import Condition
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Bytes, Monotonic, Seconds, UnixTime

_log = get_logger(__name__)

MISSED = 3
"""Intervals without an evaluation after which nobody is told that we live."""
SHORTEST = Seconds(1.0)
"""A loop that is late by less than this is not taken for hung, however short the interval."""
_NAME = "alerts-deadman"
_MAX_ANSWER = Bytes(64 * 1024)


class Pinger:
    """Pings one URL."""

    def __init__(
        self,
        config: DeadMan,
        *,
        reader: SecretReader | None,
        learn: Learn,
        clock: Clock,
        recorder: Recorder,
        evaluated: Callable[[], tuple[Monotonic | None, Seconds]],
    ) -> None:
        """`evaluated` tells when an evaluation last ended and how long their interval is."""
        self.config = config
        self._credential = (
            Credential(config.url_from, "dead man's URL", reader, learn)
            if config.url_from
            else None
        )
        self._clock = clock
        self._recorder = recorder
        self._evaluated = evaluated
        self._connection = Connection()
        self._last: UnixTime | None = None
        self._problem = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ping."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="deadman")

    async def stop(self) -> None:
        """Ping no more; one under way ends in its thread, within its deadline."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def alive(self) -> bool:
        """Whether an evaluation has ended within three of its intervals."""
        at, interval = self._evaluated()
        return at is not None and self._clock.monotonic() - at <= max(MISSED * interval, SHORTEST)

    async def _run(self) -> None:
        while True:
            wait = self.config.interval
            if self.alive():
                await self._ping()
            else:
                self._note("skipped", "rules are not being evaluated")
                wait = Seconds(min(wait, SHORTEST))
            await self._clock.sleep(wait)

    async def _ping(self) -> None:
        try:
            await asyncio.shield(asyncio.to_thread(self._ask))
        except DeliveryError as error:
            self._note("failed", error.told())
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the pings
            self._note("failed", f"fault of the agent: {type(error).__name__}")
        else:
            self._last = self._clock.now()
            self._note("accepted", "")

    def _ask(self) -> None:
        """In a thread. Raises DeliveryError, which never names the URL: it may be a secret."""
        config = self.config
        url = self._credential.read() if self._credential else config.url or ""
        if not url.startswith(("https://", "http://")):
            raise DeliveryError("the dead man's URL is none", "store the whole URL")
        if self._credential is not None and not is_safe(url):
            raise DeliveryError("the dead man's URL is not https", "use https")
        try:
            answer = self._connection.exchange(
                config.method,
                url,
                deadline=config.timeout,
                max_body=_MAX_ANSWER,
                headers={},
                body=b"" if config.method == "POST" else None,
            )
        except ExchangeError as error:
            raise DeliveryError(str(error), "check the way from this pod to the service") from None
        finally:
            self._connection.close()
        if not 200 <= answer.status < 300:
            raise DeliveryError(f"the service answered {answer.status}", "check the URL")

    def _note(self, outcome: str, problem: str) -> None:
        if problem and problem != self._problem:
            _log.warning("no dead man's ping", reason=problem)
        self._problem = problem
        self._recorder.inc("deadman_pings_total", outcome=outcome)

    def condition(self) -> Condition:
        """Whether the outside service hears from us."""
        told = "the outside service hears from us" if self._last else "nothing was sent yet"
        return Condition(
            _NAME,
            ok=not self._problem,
            reason=self._problem or told,
            remedy="the outside service will alarm; see why" if self._problem else "",
            gates_ready=False,
        )
