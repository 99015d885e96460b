"""The desk from which people are told: destinations, the policy in force, silences, the ping.

It builds what a configuration says of them, exchanges it at a reload, and starts and stops what
runs. What is told to whom is the teller's; how it gets there, each sender's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from agent.alerts.credentials import Credentials
from agent.alerts.deadman import Pinger
from agent.alerts.notifiers.base import Learn, Notifier, SecretReader
from agent.alerts.notifiers.make import make_notifiers
from agent.alerts.outbox import Outbox
from agent.alerts.outboxrows import Item
from agent.alerts.policy import Policy, make_policy
from agent.alerts.sender import Sender
from agent.alerts.silences import Silences
from agent.clock import Clock
from agent.config import Alerts
from agent.errors import UsageError
from agent.health import Condition
from agent.state import StateDB
from agent.telemetry.metrics import Recorder
from agent.units import Monotonic


class Desk:
    """Everything between the outbox and the outside, by one configuration at a time."""

    def __init__(
        self,
        config: Alerts,
        *,
        db: StateDB,
        outbox: Outbox,
        recorder: Recorder,
        clock: Clock,
        environment: str,
        reader: SecretReader | None,
        learn: Learn,
    ) -> None:
        """
        Raises:
            UsageError: a matcher is none, or a name is no destination's.
        """
        self._config = config
        self._db = db
        self._outbox = outbox
        self._recorder = recorder
        self._clock = clock
        self._environment = environment
        self._reader = reader
        self._learn = learn
        self._background: set[asyncio.Task[None]] = set()
        self._evaluated_at: Monotonic | None = None
        self._running = False
        self.set_aside: Callable[[Item, str], None] | None = None
        self.silences = Silences(db, clock)
        notifiers = self._notifiers(config)
        self.policy = self._policy(config, notifiers)
        self.senders = {notifier.name: self._sender(notifier) for notifier in notifiers}
        self.pinger = self._pinger(config)
        self.credentials = Credentials(lambda: self.senders, clock)

    # -- building, and building anew ----------------------------------------------------------

    def _notifiers(self, config: Alerts) -> list[Notifier]:
        return make_notifiers(config, self._reader, self._learn, self._db)

    def _policy(self, config: Alerts, notifiers: list[Notifier]) -> Policy:
        routes = [notifier.route for notifier in notifiers]
        return make_policy(config, routes, self._environment, self.silences)

    def _sender(self, notifier: Notifier) -> Sender:
        return Sender(
            notifier,
            self._outbox,
            self._recorder,
            self._clock,
            storm=self._config.storm,
            set_aside=self._refused,
        )

    def _pinger(self, config: Alerts) -> Pinger | None:
        if config.deadman is None:
            return None
        return Pinger(
            config.deadman,
            reader=self._reader,
            learn=self._learn,
            clock=self._clock,
            recorder=self._recorder,
            evaluated=lambda: (self._evaluated_at, self._config.interval),
        )

    def prepare(self, config: Alerts) -> Callable[[], None]:
        """Build what `config` says; the closure takes it over.

        Raises:
            UsageError: a matcher is none, or a name is no destination's.
        """
        notifiers = self._notifiers(config)
        policy = self._policy(config, notifiers)

        def apply() -> None:
            self._take_over(config, notifiers, policy)

        return apply

    def _take_over(self, config: Alerts, notifiers: list[Notifier], policy: Policy) -> None:
        before, self._config = self._config, config
        self.policy = policy
        wanted = {notifier.name: notifier for notifier in notifiers}
        for name in list(self.senders):
            if name not in wanted:
                self._later(self.senders.pop(name).stop())
        for name, notifier in wanted.items():
            if name in self.senders:
                self.senders[name].storm = config.storm
                self.senders[name].replace(notifier, hurry=_of(before, name) != _of(config, name))
            else:
                self.senders[name] = self._sender(notifier)
                self.senders[name].start()
        if config.deadman != before.deadman:
            if self.pinger is not None:
                self._later(self.pinger.stop())
            self.pinger = self._pinger(config)
            if self.pinger is not None and self._running:
                self.pinger.start()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- running ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to deliver what is queued."""
        for sender in self.senders.values():
            sender.start()
        self.credentials.start()

    def watch(self) -> None:
        """Evaluation begins: ping from now on."""
        self._running = True
        if self.pinger is not None:
            self.pinger.start()

    def evaluated(self) -> None:
        """An evaluation has ended."""
        self._evaluated_at = self._clock.monotonic()

    def wake(self) -> None:
        """Something may have been queued."""
        waiting = {item.destination for item in self._outbox.waiting()}
        for name in waiting & set(self.senders):
            self.senders[name].wake()

    async def hurry(self) -> None:
        """Try every destination now, and wait until each is empty or has failed."""
        self.start()
        for sender in self.senders.values():
            sender.hurry()
        await asyncio.gather(*(sender.rested() for sender in self.senders.values()))

    async def stop(self) -> None:
        """Stop pings and senders; what is undelivered stays in the outbox."""
        self._running = False
        await self.credentials.stop()
        if self.pinger is not None:
            await self.pinger.stop()
        await asyncio.gather(*(sender.stop() for sender in self.senders.values()))
        await asyncio.gather(*self._background, return_exceptions=True)

    def _refused(self, item: Item, reason: str) -> None:
        if self.set_aside is not None:
            self.set_aside(item, reason)
            self._later(self._release())

    async def _release(self) -> None:
        await self._outbox.flush()
        self.wake()

    # -- what the face shows and asks ---------------------------------------------------------

    def conditions(self) -> list[Condition]:
        """The dead man's ping, where there is one, and each destination's credential."""
        pinger = [] if self.pinger is None else [self.pinger.condition()]
        return [*pinger, *self.credentials.conditions()]

    def admin(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out `silence.add`, `silence.list` or `silence.expire`.

        Raises:
            UsageError: there is no such verb, or its arguments are off.
        """
        verbs: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "silence.add": self.silences.add,
            "silence.list": self.silences.list,
            "silence.expire": self.silences.expire,
        }
        if verb not in verbs:
            raise UsageError(f"no such verb: {verb}", "see `jules-agent --help`")
        return verbs[verb](arguments)


def _of(config: Alerts, name: str) -> Any:
    """What the configuration says of a destination."""
    hooks = {hook.name: hook for hook in config.webhooks}
    return hooks.get(name) or getattr(config, name, None)
