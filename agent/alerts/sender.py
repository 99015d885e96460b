"""One destination's task: take from the outbox, send, note how it went, for ever.

Each destination has a task and a thread of its own, so that one that hangs delays no other. Order:

1. wait until something is due, the pause after a failure is over, and the rate allows one more
2. take the most urgent head of the queue (critical first; per dedup key in order), or the several
   that make one digest; who is in a digest is on disk before it goes
3. send it in the thread, within the notifier's deadline
4. accepted: note it, in the ledger too; refused for good: note it as undeliverable, show it and
   tell another destination; else leave it in the queue and pause the whole destination

The pause belongs to the destination and not to the message: when a receiver is down, a hundred
queued pages knock at its door as one. It ends early when a reload changes the
destination.
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
from agent.alerts.pace import TokenBucket, late, pause
from agent.alerts.routing import Notification
from agent.alerts.storm import CALM, PLAIN, Traits, closing, digest, digest_key, pick
from agent.clock import Clock
from agent.configrouting import Storm
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Monotonic, Seconds, UnixTime

_log = get_logger(__name__)

_SLACK = 2.0
"""Seconds beyond the notifier's own deadline after which its thread is taken for stuck."""


_DUE = 0.001
"""Seconds by which a group's time may be ahead: floating point's last bit must not cost a wait."""


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
        storm: Storm = CALM,
        set_aside: Callable[[Item, str], None] | None = None,
    ) -> None:
        """`set_aside` is told of what the receiver refused for good, and why."""
        self.storm = storm
        self._set_aside = set_aside
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
        self._by_current: set[str] = set()
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

    def replace(self, notifier: Notifier, *, hurry: bool = True) -> None:
        """Go on with another configuration of the same destination; with `hurry`, at once."""
        old, self.notifier = self.notifier, notifier
        if notifier.credential is not None and old.credential is not None:
            notifier.credential.inherit(old.credential)
        self._thread.submit(old.close)  # behind a send that may be under way
        if hurry:
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
        queued = self._outbox.heads(self.name)
        heads = [item for item in queued if item.due <= now + _DUE]
        pausing = self._not_before - now
        if not heads or pausing > 0:
            self._rested.set()
            until = min((item.due for item in queued), default=None)
            waits = pausing if heads else None if until is None else until - now
            await self._sleep(None if waits is None else Seconds(max(waits, 0.0)))
            return
        self._rested.clear()
        if self._closed_with_others(heads[0]):
            await self._outbox.flush()
            return
        limited = self._bucket.wait(now)
        if limited > 0:
            await self._sleep(limited)
            return
        self._bucket.take(now)
        await self._deliver(self._pick(heads, self._bucket.wait(now) > 0))

    def _pick(self, heads: list[Item], used_up: bool) -> list[Item]:
        """What goes now; several go as the digest whose key they then have."""
        traits = self._traits
        items = pick(
            heads,
            used_up=used_up,
            storm=self.storm,
            together=traits.together,
            keyed=traits.keyed,
            room=traits.room,
        )
        if len(items) > 1 and not items[0].digest:
            self._outbox.join(items, digest_key(self.name, items))
        return items

    @property
    def _traits(self) -> Traits:
        return getattr(self.notifier, "traits", PLAIN)

    def _closed_with_others(self, item: Item) -> bool:
        """Whether it ends an alert that was told in a digest whose incident others hold open, or
        tells again one that has no incident of its own: then there is nothing to send."""
        n = item.notification
        opening = self._outbox.openings.get(self.name, n.dedup_key)
        if opening is None or not opening.digest:
            return False
        if n.status == "firing":
            nothing = n.repeated
        else:
            nothing = self._outbox.openings.others(self.name, opening, n.dedup_key) > 0
        if nothing:
            self._outbox.joined(item)
        return nothing

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

    async def _deliver(self, items: list[Item]) -> None:
        if len(items) > 1:
            await self._outbox.flush()  # the same digest must go again after a kill
        try:
            await self._send(self._message(items))
        except DeliveryError as error:
            self._failed(items, error)
        else:
            self._accepted(items)
        await self._outbox.flush()

    def _message(self, items: list[Item]) -> Notification:
        """What is told about them: the notification itself, or a digest, marked when it is late."""
        first = items[0]
        told = first.notification
        opening = self._outbox.openings.get(self.name, told.dedup_key)
        if first.digest:
            told = digest(items, self._traits.room)
        elif told.status == "resolved" and opening is not None and opening.digest:
            told = closing(told, opening.digest)
        oldest = min(item.created_at + item.held for item in items)
        return late(told, Seconds(self._clock.now() - oldest))

    async def _send(self, told: Notification) -> None:
        """One attempt, in the thread.

        Raises:
            DeliveryError: not accepted.
        """
        if self._stuck is not None and not self._stuck.done():
            raise DeliveryError(f"{self.name}: the attempt before has not come back")
        self._want(told)
        loop = asyncio.get_running_loop()
        attempt = loop.run_in_executor(self._thread, self.notifier.send, told, self._clock.now())
        attempt.add_done_callback(_look_away)  # its outcome may come after nobody waits any more
        self._stuck = attempt
        # The notifier keeps its deadline itself; only resolving a name can outlast it.
        limit = self.notifier.timeout + _SLACK
        done, _ = await asyncio.wait((attempt,), timeout=limit)
        if not done:
            raise DeliveryError(f"{self.name}: no answer before the deadline")
        await attempt

    def _want(self, told: Notification) -> None:
        """A resolve or a repeat goes by its trigger's credential, where that is still known."""
        credential = self.notifier.credential
        if credential is None:
            return
        credential.wanted = None
        openings = self._outbox.openings
        mark = openings.credential(self.name, told.dedup_key)
        again = told.status == "resolved" or told.repeated
        if again and mark and told.dedup_key not in self._by_current:
            credential.wanted = lambda value: openings.mark(value) == mark

    def _accepted(self, items: list[Item]) -> None:
        now = self._clock.now()
        mark: str | None = None
        if self._traits.keyed:
            used = self.notifier.credential.used if self.notifier.credential else ""
            mark = self._outbox.openings.mark(used)
        self.delivery.last_success = now
        self.delivery.last_error, self.delivery.remedy = None, ""
        self.delivery.failures = 0
        for item in items:
            self._by_current.discard(item.notification.dedup_key)
            self._outbox.accepted(item, mark)
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

    def _failed(self, items: list[Item], error: DeliveryError) -> None:
        told, first = error.told(), items[0]
        named = {"destination": self.name, "alert": first.notification.name, "error": told}
        if error.permanent and len(items) > 1:
            for item in items:
                self._outbox.part(item)
            _log.error("a digest was refused; its alerts go one by one", **named)
            return
        if error.permanent and self._may_go_by_the_current(first):
            _log.warning("the former credential was refused; trying the current one", **named)
            return
        if error.permanent:
            self._outbox.undeliverable(first, str(error))
            self.delivery.last_error, self.delivery.remedy = str(error), error.remedy
            self._recorder.inc(
                "notifications_total", destination=self.name, outcome="undeliverable"
            )
            _log.error("notification is undeliverable", **named)
            if self._set_aside is not None:
                self._set_aside(first, str(error))
            return
        waits = self._paused(error)
        for item in items:
            self._outbox.failed(item, str(error), UnixTime(self._clock.now() + waits))
        self._recorder.inc("notifications_total", destination=self.name, outcome="failed")
        _log.warning("notification not accepted; will try again", after=round(waits, 1), **named)

    def _may_go_by_the_current(self, item: Item) -> bool:
        """After a refusal by a former credential: once more, by the current one."""
        credential, key = self.notifier.credential, item.notification.dedup_key
        if credential is None or credential.wanted is None or key in self._by_current:
            return False
        self._by_current.add(key)
        return True

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
