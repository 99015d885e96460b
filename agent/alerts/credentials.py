"""Whether each destination's credential could be used now: looked at from the start on, not first
when somebody must be told. A value is looked at and let go; what is kept is why it is no good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from agent.alerts.errors import DeliveryError
from agent.alerts.sender import Sender
from agent.clock import Clock
from agent.health import Condition
from agent.telemetry.logs import get_logger
from agent.units import Seconds

_log = get_logger(__name__)

EVERY = Seconds(60.0)


class Credentials:
    """Looks at the credentials of those senders that there are."""

    def __init__(self, senders: Callable[[], Mapping[str, Sender]], clock: Clock) -> None:
        self._senders = senders
        self._clock = clock
        self._found: dict[str, DeliveryError | None] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now and every minute, until `stop`."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="credentials")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await self.look()
            await self._clock.sleep(EVERY)

    async def look(self) -> None:
        """Look at each once."""
        senders = dict(self._senders())
        self._found = {name: self._found[name] for name in senders if name in self._found}
        for name, sender in senders.items():
            credential = sender.notifier.credential
            if credential is None:
                continue
            problem: DeliveryError | None = None
            try:
                await asyncio.to_thread(credential.check)
            except DeliveryError as error:
                problem = DeliveryError(str(error), error.remedy)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the looking
                problem = DeliveryError(f"fault of the agent: {type(error).__name__}")
            if problem is not None and not self._found.get(name):
                _log.warning("a credential cannot be used", destination=name, error=problem.told())
            self._found[name] = problem

    def conditions(self) -> list[Condition]:
        """One a destination that has been looked at."""
        return [
            Condition(
                f"destination-{name}-credential",
                ok=problem is None,
                reason=str(problem) if problem else "its credential can be read",
                remedy=problem.remedy if problem else "",
                gates_ready=False,
            )
            for name, problem in self._found.items()
        ]
