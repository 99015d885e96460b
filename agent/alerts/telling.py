"""From what changed to what is queued: who is told, what is remembered, in one transaction.

For each verdict of the judge:

1. firing: the destinations of the alert's severity get a notification, unless another rule's alert
   with the same labels has told them already
2. resolved: those who were told get the resolve, unless another rule still fires with these labels
3. still firing after `repeat_interval`: those who were told are told again
4. all of it, and the alerts' states, is committed; then the senders are woken

What the disk refuses is kept here and written with the next commit; notifications go out all the
same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

from agent.alerts.judge import Judge, Verdict
from agent.alerts.outbox import Outbox
from agent.alerts.outboxrows import Item
from agent.alerts.redact import Redaction
from agent.alerts.routing import (
    Notification,
    Route,
    Status,
    dedup_key,
    destinations,
    effective_severity,
    notify,
)
from agent.alerts.state import Alert
from agent.alerts.states import Kept, States, Told
from agent.telemetry.logs import get_logger
from agent.units import Seconds, UnixTime

_log = get_logger(__name__)

Context = Callable[[], Mapping[str, str]]


class Teller:
    """Keeps who was told what; queues and remembers."""

    def __init__(
        self,
        states: States,
        outbox: Outbox,
        *,
        environment: str,
        pod: str,
        context: Context,
        redactor: Redaction,
    ) -> None:
        self._states = states
        self._outbox = outbox
        self._environment = environment
        self._pod = pod
        self._context = context
        self._redactor = redactor
        self._told = {told.fingerprint: told for told in states.load_told()}
        self._put: dict[tuple[str, str], Kept | None] = {}
        self._put_told: dict[str, Told | None] = {}
        self.routes: tuple[Route, ...] = ()
        self.external: Mapping[str, str] = {}

    def remember(self, rule: str, alert: Alert | None, fingerprint: str) -> None:
        """Note an alert's state for the next commit; None forgets it."""
        self._put[(rule, fingerprint)] = None if alert is None else Kept(rule, alert)

    def take(
        self, verdicts: Iterable[Verdict], judge: Judge, at: UnixTime, decided: UnixTime
    ) -> list[Item]:
        """Queue what the verdicts call for, in memory; return what had to be dropped for room.

        Args:
            verdicts: what changed.
            judge: the rules as they stand after it.
            at: evaluation time.
            decided: when the samples that decided were in hand, by the wall clock.
        """
        verdicts = list(verdicts)
        firing: set[str] = set()
        if any(verdict.transition.change == "resolved" for verdict in verdicts):
            firing = {alert.fingerprint for alert in judge.alerts() if alert.state == "firing"}
        for verdict in verdicts:
            alert, change = verdict.transition.alert, verdict.transition.change
            ended = change in ("resolved", "dropped")
            self.remember(verdict.rule, None if ended else alert, alert.fingerprint)
            if change == "firing":
                self._fired(alert, at, decided)
            elif change == "resolved":
                self._resolved(alert, firing, at, decided)
            if change in ("firing", "resolved"):
                _log.info(f"alert {change}", alert=alert.name, severity=alert.severity)
        return self._outbox.make_room()

    def repeat(self, judge: Judge, at: UnixTime, decided: UnixTime, every: Seconds) -> None:
        """Tell again what has been firing since `every` seconds without a word."""
        due = {key: told for key, told in self._told.items() if at - told.at >= every}
        if not due:
            return
        for alert in judge.alerts():
            told = due.pop(alert.fingerprint, None) if alert.state == "firing" else None
            if told is not None:
                self._queue(alert, "firing", told, at, decided, repeated=True)
                self._note(replace(told, at=at))

    async def commit(self) -> bool:
        """Make all of it durable, and release what was queued; False when the disk refused."""
        if not (self._put or self._put_told or self._outbox.dirty()):
            return True
        put, self._put = self._put, {}
        told, self._put_told = self._put_told, {}

        def write(cursor: sqlite3.Cursor) -> None:
            self._states.write(
                cursor,
                [kept for kept in put.values() if kept is not None],
                [key for key, kept in put.items() if kept is None],
            )
            self._states.write_told(
                cursor,
                [entry for entry in told.values() if entry is not None],
                [key for key, entry in told.items() if entry is None],
            )

        done = await self._outbox.flush(also=write)
        if not done:
            self._put = {**put, **self._put}
            self._put_told = {**told, **self._put_told}
        return done

    def _fired(self, alert: Alert, at: UnixTime, decided: UnixTime) -> None:
        if alert.fingerprint in self._told:
            return
        names = destinations(alert.labels, self.routes)
        if not names:
            return
        key = dedup_key(alert.labels, self._environment, self._pod, self.external)
        severity = effective_severity(alert.labels, self.routes)
        told = Told(alert.fingerprint, key, severity, names, at)
        self._queue(alert, "firing", told, at, decided)
        self._note(told)

    def _resolved(
        self, alert: Alert, firing: Container[str], at: UnixTime, decided: UnixTime
    ) -> None:
        told = self._told.get(alert.fingerprint)
        if told is None or alert.fingerprint in firing:  # another rule's alert of the same labels
            return
        self._queue(alert, "resolved", told, at, decided)
        self._told.pop(alert.fingerprint)
        self._put_told[alert.fingerprint] = None

    def _note(self, told: Told) -> None:
        self._told[told.fingerprint] = told
        self._put_told[told.fingerprint] = told

    def _queue(
        self,
        alert: Alert,
        status: Status,
        told: Told,
        at: UnixTime,
        decided: UnixTime,
        repeated: bool = False,
    ) -> None:
        built = self._notification(alert, status, told, at, repeated)
        for name in told.destinations:
            self._outbox.add(name, built, decided)

    def _notification(
        self, alert: Alert, status: Status, told: Told, at: UnixTime, repeated: bool = False
    ) -> Notification:
        """What is told, without what may not leave."""
        context = {"environment": self._environment, "pod": self._pod, **self._seen()}
        built = notify(
            alert,
            status,
            severity=told.severity,
            key=told.dedup_key,
            at=at,
            context=context,
            external=self.external,
            repeated=repeated,
        )
        scrubbed: Any = self._redactor.scrub_tree(built.as_dict())
        return Notification.from_dict(scrubbed)

    def standing(self, judge: Judge, destination: str, at: UnixTime) -> list[Notification]:
        """What `destination` was told and fires still: for a receiver that forgets."""
        found = []
        for alert in judge.alerts():
            told = self._told.get(alert.fingerprint)
            if told is not None and alert.state == "firing" and destination in told.destinations:
                found.append(self._notification(alert, "firing", told, at))
        return found

    def _seen(self) -> Mapping[str, str]:
        """What the daemon knows of the bundle; its fault must not cost the page."""
        try:
            return self._context()
        except Exception as error:  # noqa: BLE001 - see above
            _log.warning("no context for a page", error=type(error).__name__)
            return {}
