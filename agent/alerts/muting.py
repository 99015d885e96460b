"""Whether people are told of an alert now: silences, maintenance windows, inhibition.

Each mutes the first word about an alert and its repeats, never a resolve of what was told. Pure but
for the silences, which are kept in the state file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from agent.alerts.matchers import Matchers, match, parse_all
from agent.alerts.silences import Silences
from agent.alerts.state import Alert
from agent.configrouting import Inhibition, Maintenance
from agent.units import UnixTime

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Inhibitor:
    """One inhibition, parsed."""

    source: Matchers
    target: Matchers
    equal: tuple[str, ...]

    def mutes(
        self, labels: Mapping[str, str], alert: Alert, firing: Iterable[Alert]
    ) -> Alert | None:
        """The firing alert because of which `alert`, with `labels`, is not told.

        As in Alertmanager, an alert that meets both sides is not muted by another that does: two
        of them would silence each other.
        """
        if not match(self.target, labels):
            return None
        both = match(self.source, labels)
        for other in firing:
            if other.fingerprint == alert.fingerprint or not match(self.source, other.labels):
                continue
            if both and match(self.target, other.labels):
                continue
            if all(other.labels.get(n, "") == labels.get(n, "") for n in self.equal):
                return other
        return None


@dataclass(frozen=True, slots=True)
class Window:
    """One maintenance window, parsed. `start` and `end` are minutes of the day."""

    name: str
    matchers: Matchers
    days: frozenset[str]
    start: int
    end: int
    zone: tzinfo

    def open(self, at: UnixTime) -> bool:
        """Whether it is open at that moment, by the clocks of its zone."""
        local = datetime.fromtimestamp(at, self.zone)
        minute = local.hour * 60 + local.minute
        today, yesterday = _day(local), _day(local - timedelta(days=1))
        if self.end > self.start:
            return today in self.days and self.start <= minute < self.end
        began_today = today in self.days and minute >= self.start
        return began_today or (yesterday in self.days and minute < self.end)


class Muting:
    """What mutes, by one configuration."""

    def __init__(
        self, silences: Silences, inhibit: Iterable[Inhibition], maintenance: Iterable[Maintenance]
    ) -> None:
        """Raises UsageError: a matcher is none."""
        self.silences = silences
        self._inhibitors = [
            Inhibitor(parse_all(rule.source), parse_all(rule.target), rule.equal)
            for rule in inhibit
        ]
        self.windows = [
            Window(
                window.name,
                parse_all(window.matchers),
                frozenset(window.days),
                _minutes(window.start),
                _minutes(window.end),
                UTC if window.zone == "UTC" else ZoneInfo(window.zone),
            )
            for window in maintenance
        ]

    def reason(
        self, labels: Mapping[str, str], alert: Alert, firing: Iterable[Alert], at: UnixTime
    ) -> str | None:
        """Why nobody is told of this label set now; None when people are.

        Args:
            labels: the alert's, with the external ones.
            alert: itself.
            firing: every alert that fires, this one too.
            at: the moment, by the wall clock.
        """
        silence = self.silences.muting(labels, at)
        if silence is not None:
            return f"silence {silence.id}"
        for window in self.windows:
            if window.open(at) and match(window.matchers, labels):
                return f"maintenance {window.name}"
        for inhibitor in self._inhibitors:
            source = inhibitor.mutes(labels, alert, firing)
            if source is not None:
                return f"inhibited by {source.name}"
        return None


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def _day(local: datetime) -> str:
    return _DAYS[local.weekday()]
