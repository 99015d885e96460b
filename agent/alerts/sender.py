"""One destination's task: take from the outbox, send, note how it went, for ever.

Each destination has a task and a thread of its own, so that one that hangs delays no other. Order:

1. wait until something is queued, the pause after a failure is over, and the rate allows one more
2. take the most urgent head of the queue (critical first; per dedup key in order)
3. send it in the thread, within the notifier's deadline
4. accepted: note it, in the ledger too; refused for good: note it as undeliverable and show it;
   else leave it in the queue and pause the whole destination

The pause belongs to the destination and not to the message: when a receiver is down, a hundred
queued pages knock at its door as one. It ends early when the configuration is reloaded.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agent.alerts.errors import DeliveryError
from agent.alerts.notifiers.base import Notifier, Resends
from agent.alerts.outbox import Outbox
from agent.alerts.outboxrows import Item
from agent.alerts.pace import TokenBucket, pause
from agent.alerts.routing import Notification
from agent.clock import Clock
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Monotonic, Seconds, UnixTime

_log = get_logger(__name__)

_SLACK = 2.0
"""Seconds beyond the notifier's own deadline after which its thread is taken for stuck."""


@dataclass(slots=True)
class Delivery:
    """How a destination does, for the read model."""

    last_success: UnixTime | None = None
    last_error: str | None = None
    remedy: str = ""
    failures: int = 0


class Sender:
    """Delivers one destination's queue."""

    def __init__(
        self,
        notifier: Notifier,
        outbox: Outbox,
        recorder: Recorder,
        clock: Clock,
        roll: Callable[[], float] = random.random,
    ) -> None:
        self.notifier = notifier
        self.name = notifier.name
        self.delivery = Delivery(last_success=outbox.delivered(self.name)[1])
        self._outbox = outbox
        self._recorder = recorder
        self._clock = clock
        self._roll = roll
        self._bucket = TokenBucket(notifier.rate.per_second, notifier.rate.burst, clock.monotonic())
        self._not_before = clock.monotonic()
        self._wake = asyncio.Event()
        self._rested = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"send-{self.name}")
        self._stuck: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._adopted: Notifier | None = None
        self._resend_at = self._not_before

    def start(self) -> None:
        """Begin to deliver; once begun it goes on until `stop`."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"send-{self.name}")

    def wake(self) -> None:
        """Something was queued."""
        self._rested.clear()
        self._wake.set()

    def hurry(self) -> None:
        """Try now, whatever pause was under way."""
        self._not_before = self._clock.monotonic()
        self.wake()

    def replace(self, notifier: Notifier) -> None:
        """Go on with another configuration of the same destination."""
        old, self.notifier = self.notifier, notifier
        self._thread.submit(old.close)  # behind a send that may be under way
        self.hurry()

    def refresh(self, standing: Callable[[], list[Notification]]) -> None:
        """Tell a receiver that forgets again what fires, when it is time; called once a tick.

        Args:
            standing: what it was told and fires still; asked once for each notifier.
        """
        notifier = self.notifier
        if not isinstance(notifier, Resends):
            return
        now = self._clock.monotonic()
        if self._adopted is not notifier:
            self._adopted = notifier
            notifier.adopt(standing())
            self._resend_at = now
        if now < max(self._resend_at, self._not_before) or not self._task:
            return
        self._resend_at = Monotonic(now + notifier.resend_every)
        self._thread.submit(self._resend, notifier, self._clock.now())

    def _resend(self, notifier: Resends, now: UnixTime) -> None:
        """In the thread."""
        try:
            notifier.resend(now)
        except DeliveryError as error:
            _log.warning("what fires was not told again", destination=self.name, error=error.told())

    async def rested(self) -> None:
        """Wait until the queue is empty, or its head failed and waits for another try."""
        await self._rested.wait()

    async def stop(self) -> None:
        """End the task; a send under way ends in its thread, within its deadline."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._thread.submit(self.notifier.close)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            try:
                await self._step()
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end deliveries
                _log.exception("delivery failed by a fault of the agent", destination=self.name)
                self._paused(DeliveryError(f"fault of the agent: {type(error).__name__}"))

    async def _step(self) -> None:
        self._wake.clear()
        now = self._clock.monotonic()
        heads = self._outbox.heads(self.name)
        pausing = self._not_before - now
        if not heads or pausing > 0:
            self._rested.set()
            await self._sleep(Seconds(pausing) if heads else None)
            return
        self._rested.clear()
        limited = self._bucket.wait(now)
        if limited > 0:
            await self._sleep(limited)
            return
        self._bucket.take(now)
        await self._deliver(heads[0])

    async def _sleep(self, duration: Seconds | None) -> None:
        """Until something is queued, or `duration` is over."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._wake.wait())]
        if duration is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(duration)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def _deliver(self, item: Item) -> None:
        try:
            await self._send(item)
        except DeliveryError as error:
            self._failed(item, error)
        else:
            self._accepted(item)
        await self._outbox.flush()

    async def _send(self, item: Item) -> None:
        """One attempt, in the thread.

        Raises:
            DeliveryError: not accepted.
        """
        if self._stuck is not None and not self._stuck.done():
            raise DeliveryError(f"{self.name}: the attempt before has not come back")
        loop = asyncio.get_running_loop()
        attempt = loop.run_in_executor(
            self._thread, self.notifier.send, item.notification, self._clock.now()
        )
        attempt.add_done_callback(_look_away)  # its outcome may come after nobody waits any more
        self._stuck = attempt
        # The notifier keeps its deadline itself; only resolving a name can outlast it.
        limit = self.notifier.timeout + _SLACK
        done, _ = await asyncio.wait((attempt,), timeout=limit)
        if not done:
            raise DeliveryError(f"{self.name}: no answer before the deadline")
        await attempt

    def _accepted(self, item: Item) -> None:
        now = self._clock.now()
        self._outbox.accepted(item)
        self.delivery.last_success = now
        self.delivery.last_error, self.delivery.remedy = None, ""
        self.delivery.failures = 0
        taken = max(0.0, now - item.decided_at)
        self._recorder.inc("notifications_total", destination=self.name, outcome="accepted")
        self._recorder.observe("alert_delivery_seconds", taken, destination=self.name)
        _log.info(
            "notification accepted",
            destination=self.name,
            alert=item.notification.name,
            status=item.notification.status,
            attempts=item.attempts,
            seconds=round(taken, 3),
        )

    def _failed(self, item: Item, error: DeliveryError) -> None:
        told = error.told()
        named = {"destination": self.name, "alert": item.notification.name, "error": told}
        if error.permanent:
            self._outbox.undeliverable(item, str(error))
            self.delivery.last_error, self.delivery.remedy = str(error), error.remedy
            self._recorder.inc(
                "notifications_total", destination=self.name, outcome="undeliverable"
            )
            _log.error("notification is undeliverable", **named)
            return
        waits = self._paused(error)
        self._outbox.failed(item, str(error), UnixTime(self._clock.now() + waits))
        self._recorder.inc("notifications_total", destination=self.name, outcome="failed")
        _log.warning("notification not accepted; will try again", after=round(waits, 1), **named)

    def _paused(self, error: DeliveryError) -> Seconds:
        self.delivery.failures += 1
        self.delivery.last_error, self.delivery.remedy = str(error), error.remedy
        waits = pause(error, self.delivery.failures, self._roll)
        self._not_before = Monotonic(self._clock.monotonic() + waits)
        return waits


def _look_away(attempt: asyncio.Future[None]) -> None:
    """Take the outcome, so that asyncio does not report it as forgotten."""
    if not attempt.cancelled():
        attempt.exception()
