"""From what changed to what is queued: who is told, what is remembered, in one transaction.

For each verdict of the judge:

1. firing: the destinations that the routes give get a notification, unless another rule's alert
   with the same labels has told them already, or something mutes it
2. resolved: those who were told get the resolve, unless another rule still fires with these labels,
   or the alert flaps
3. what is muted no longer and fires still is told; what flapped and is calm is told as it stands
4. still firing after `repeat_interval`: those who were told are told again
5. what a destination that is down keeps waiting is told to its fallback
6. all of it, and the alerts' states, is committed; then the senders are woken

What the disk refuses is kept here and written with the next commit; notifications go out all the
same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

from agent.alerts.damping import Damper, Withheld
from agent.alerts.judge import Judge, Verdict
from agent.alerts.outbox import Outbox
from agent.alerts.outboxrows import Item
from agent.alerts.policy import Policy
from agent.alerts.redact import Redaction
from agent.alerts.routing import (
    Notification,
    Status,
    dedup_key,
    effective_severity,
    noted,
    notify,
)
from agent.alerts.state import Alert, fingerprint
from agent.alerts.states import Kept, States, Told
from agent.telemetry.logs import get_logger
from agent.units import Seconds, UnixTime

_log = get_logger(__name__)

_REFUSED = "jules-refused-"
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
        withheld: Withheld,
        policy: Policy,
        wall: Callable[[], UnixTime],
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
        self._wall = wall
        self._store = withheld
        self._withheld = withheld.load()
        self._put_withheld: dict[str, tuple[Alert, UnixTime] | None] = {}
        self.muted = withheld.load_muted()
        self._put_muted: dict[str, str | None] = {}
        self._policy = policy
        self._damper = Damper(policy.flapping)
        self._resumed = False
        self.external: Mapping[str, str] = {}

    @property
    def policy(self) -> Policy:
        """What the configuration says; a new one takes effect at once."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self._damper.config = policy.flapping

    @property
    def flapping(self) -> Iterable[str]:
        """Fingerprints of alerts that people are not told of because they flap."""
        return [key for key in self._told if self._damper.flaps(key)]

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
        if not self._resumed:
            self._resumed = True
            for key in self._withheld:
                self._damper.resume(key, at)
        verdicts = list(verdicts)
        all_firing: list[Alert] = []
        if self.muted or any(v.transition.change in ("firing", "resolved") for v in verdicts):
            all_firing = [alert for alert in judge.alerts() if alert.state == "firing"]
        firing = {alert.fingerprint for alert in all_firing}
        for verdict in verdicts:
            alert, change = verdict.transition.alert, verdict.transition.change
            ended = change in ("resolved", "dropped")
            self.remember(verdict.rule, None if ended else alert, alert.fingerprint)
            if change == "firing":
                self._fired(alert, all_firing, at, decided)
            elif change == "resolved":
                self._resolved(alert, firing, at, decided)
            if change in ("firing", "resolved"):
                _log.info(f"alert {change}", alert=alert.name, severity=alert.severity)
        self._unmute(all_firing, at, decided)
        self._settle(at, decided)
        self._fall_back()
        return self._outbox.make_room()

    def repeat(self, judge: Judge, at: UnixTime, decided: UnixTime, every: Seconds) -> None:
        """Tell again what has been firing since its `repeat_interval` without a word.

        Args:
            every: the shortest interval that any route has.
        """
        due = {key: told for key, told in self._told.items() if at - told.at >= every}
        if not due:
            return
        firing = [alert for alert in judge.alerts() if alert.state == "firing"]
        for alert in firing:
            told = due.pop(alert.fingerprint, None)
            if told is None or self._damper.flaps(alert.fingerprint):
                continue
            ways = self._policy.routes.ways({**self.external, **alert.labels})
            if at - told.at < min((way.repeat for way in ways), default=every):
                continue
            self._note(replace(told, at=at))
            if self._muting(alert, firing) is None:
                self._queue(alert, "firing", told, at, decided, repeated=True)

    async def commit(self) -> bool:
        """Make all of it durable, and release what was queued; False when the disk refused."""
        pending = self._put or self._put_told or self._put_withheld or self._put_muted
        if not (pending or self._outbox.dirty()):
            return True
        withheld, self._put_withheld = self._put_withheld, {}
        muted, self._put_muted = self._put_muted, {}
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
            self._store.write(cursor, withheld.items())
            self._store.write_muted(cursor, muted.items())

        done = await self._outbox.flush(also=write)
        if not done:
            self._put = {**put, **self._put}
            self._put_told = {**told, **self._put_told}
            self._put_withheld = {**withheld, **self._put_withheld}
            self._put_muted = {**muted, **self._put_muted}
        return done

    def _fired(self, alert: Alert, firing: list[Alert], at: UnixTime, decided: UnixTime) -> None:
        flaps = self._damper.changed(alert.fingerprint, at)
        if alert.fingerprint in self._told:
            self._withhold(alert.fingerprint, None)  # it fires on, as far as anybody knows
            return
        if not self._policy.routes.ways({**self.external, **alert.labels}):
            return
        reason = self._muting(alert, firing)
        self._mute(alert.fingerprint, reason)
        if reason is None:
            self._tell(alert, at, decided, flaps)
        else:
            _log.info("alert is muted", alert=alert.name, reason=reason)

    def _tell(self, alert: Alert, at: UnixTime, decided: UnixTime, flaps: bool = False) -> None:
        ways = self._policy.routes.ways({**self.external, **alert.labels})
        if not ways:
            return
        names = tuple(way.destination for way in ways)
        key = dedup_key(alert.labels, self._environment, self._pod, self.external)
        severity = effective_severity(alert.labels, self._policy.severities)
        told = Told(alert.fingerprint, key, severity, names, at)
        if flaps:
            calm = f"{self._policy.flapping.calm:.0f} s"
            summary = alert.annotations.get("summary") or alert.name
            note = f"[flapping; quiet until it is calm for {calm}] {summary}"
            alert = replace(alert, annotations={**alert.annotations, "summary": note})
        built = self._notification(alert, "firing", told, at)
        for way in ways:
            self._outbox.add(way.destination, built, decided, way.group)
        self._note(told)

    def _resolved(
        self, alert: Alert, firing: Container[str], at: UnixTime, decided: UnixTime
    ) -> None:
        flaps = self._damper.changed(alert.fingerprint, at)
        if alert.fingerprint in firing:  # another rule's alert of the same labels
            return
        self._mute(alert.fingerprint, None)
        if alert.fingerprint not in self._told:
            return
        if flaps:
            self._withhold(alert.fingerprint, (alert, at))
        else:
            self._close(alert, at, decided)

    def _close(self, alert: Alert, at: UnixTime, decided: UnixTime) -> None:
        """Tell those who were told that it is over."""
        told = self._told.pop(alert.fingerprint, None)
        if told is not None:
            self._queue(alert, "resolved", told, at, decided)
            self._put_told[alert.fingerprint] = None

    def _muting(self, alert: Alert, firing: list[Alert]) -> str | None:
        labels = {**self.external, **alert.labels}
        return self._policy.muting.reason(labels, alert, firing, self._wall())

    def _mute(self, fingerprint: str, reason: str | None) -> None:
        if reason is not None and self.muted.get(fingerprint) != reason:
            self.muted[fingerprint] = self._put_muted[fingerprint] = reason
        elif reason is None and self.muted.pop(fingerprint, None) is not None:
            self._put_muted[fingerprint] = None

    def _withhold(self, fingerprint: str, entry: tuple[Alert, UnixTime] | None) -> None:
        if entry is not None:
            self._withheld[fingerprint] = self._put_withheld[fingerprint] = entry
        elif self._withheld.pop(fingerprint, None) is not None:
            self._put_withheld[fingerprint] = None

    def _unmute(self, firing: list[Alert], at: UnixTime, decided: UnixTime) -> None:
        """Tell what fires still and is muted no longer."""
        if not self.muted:
            return
        for alert in firing:
            if alert.fingerprint not in self.muted:
                continue
            reason = self._muting(alert, firing)
            self._mute(alert.fingerprint, reason)
            if reason is None:
                self._tell(alert, at, decided, self._damper.flaps(alert.fingerprint))

    def _settle(self, at: UnixTime, decided: UnixTime) -> None:
        """What flapped and is calm: tell that it is over, if it is."""
        for key in self._damper.calm(at):
            entry = self._withheld.get(key)
            if entry is not None:
                self._withhold(key, None)
                self._close(entry[0], entry[1], decided)

    # -- when a destination is down, or refuses -------------------------------------------------

    def _fall_back(self) -> None:
        """Queue for its fallback what has waited too long; the destination itself is told too."""
        if not self._policy.fallbacks:
            return
        by_key = {told.dedup_key: told for told in self._told.values()}
        for fallback in self._policy.fallbacks:
            for item in self._outbox.overdue(fallback.destination, fallback.after):
                self._outbox.fall(item)
                key = item.notification.dedup_key
                told = by_key.get(key)
                if told is not None and fallback.to in told.destinations:
                    continue
                if told is None and self._outbox.has_same(fallback.to, item):
                    continue
                note = f"{fallback.destination} cannot be reached"
                self._outbox.add(fallback.to, noted(item.notification, note), item.decided_at)
                if told is not None:
                    self._note(replace(told, destinations=(*told.destinations, fallback.to)))
                    by_key[key] = self._told[told.fingerprint]

    def set_aside(self, item: Item, reason: str) -> None:
        """Tell another destination that one has refused a notification for good."""
        n = item.notification
        other = self._other(item.destination)
        if other is None or n.dedup_key.startswith(_REFUSED):
            return
        text = f"{item.destination} refused the notification about {n.name}: {reason}"
        told = replace(
            noted(n, f"refused by {item.destination}"),
            status="firing",
            dedup_key=_REFUSED + fingerprint({"to": item.destination, "key": n.dedup_key}),
            resolved_at=None,
            annotations={**n.annotations, "summary": f"[{text}] {n.summary}"},
        )
        self._outbox.add(other, told, item.decided_at)

    def _other(self, destination: str) -> str | None:
        for fallback in self._policy.fallbacks:
            if fallback.destination == destination:
                return fallback.to
        names = [route.name for route in self._policy.severities if route.name != destination]
        return names[0] if names else None

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
