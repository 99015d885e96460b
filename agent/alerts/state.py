"""The life of an alert, as Prometheus's rules live it: pending, firing, gone. Pure.

`advance` takes one rule's timing, its alerts and what its expression gave now, and returns the
alerts as they are next, what changed, and the samples that Prometheus would write about them
(`ALERTS`, `ALERTS_FOR_STATE`). The steps follow rules/alerting.go:

1. each element of the result is an alert, known by its whole label set; two with one label set are
   an error of the rule, and nothing of the evaluation counts
2. an element not seen before is pending since now; one seen before gets its new value
3. a pending alert whose element is gone is dropped; a firing one is kept for `keep_firing_for`,
   then resolved
4. a pending alert that has held for `for` fires

Different from there, on purpose: an alert that was restored after a restart is not taken for gone
while the samples that its expression looks back over have not been collected anew, because until
then an empty result is no evidence; and a firing alert stays firing when a reload raises its `for`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from agent.alerts.errors import EvalError
from agent.units import Seconds, UnixTime

State = Literal["pending", "firing"]
Change = Literal["pending", "firing", "keeping", "seen again", "resolved", "dropped"]

_SLACK = 0.0005
"""Half of Prometheus's millisecond: 30 ticks of 1 s are 30 s, whatever the last float bit says."""
PENDING_HELD = Seconds(10.0)
"""Longest that a restored pending alert waits to be seen again."""
FORGET_PENDING = Seconds(300.0)
"""A pending alert that an outage outlived by this is begun anew: nobody knows what lay between."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What of a rule the state machine needs. Durations in seconds."""

    name: str
    hold: Seconds
    keep_firing_for: Seconds
    looks_back: Seconds


@dataclass(frozen=True, slots=True)
class Element:
    """One element of an expression's result, labelled and annotated by its rule."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `fingerprint` is its identity; times are UNIX seconds of the evaluations."""

    fingerprint: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    value: float
    state: State
    active_at: UnixTime
    fired_at: UnixTime | None = None
    keeping_since: UnixTime | None = None
    restored: bool = False

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.labels.get("alertname", "")

    @property
    def severity(self) -> str:
        """The `severity` label; empty when the rule gives none."""
        return self.labels.get("severity", "")


@dataclass(frozen=True, slots=True)
class Transition:
    """One change that must be remembered, and the alert as it is after it."""

    change: Change
    alert: Alert
    at: UnixTime


@dataclass(frozen=True, slots=True)
class Advanced:
    """The outcome of one evaluation."""

    alerts: dict[str, Alert]
    transitions: list[Transition]


def fingerprint(labels: Mapping[str, str]) -> str:
    """64 hex digits: SHA-256 of the sorted label set. Equal for equal label sets, for ever."""
    text = json.dumps(sorted(labels.items()), separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def advance(
    timing: Timing,
    alerts: Mapping[str, Alert],
    result: Iterable[Element],
    at: UnixTime,
    collected: Seconds | None = None,
) -> Advanced:
    """One evaluation.

    Args:
        timing: the rule's durations.
        alerts: the rule's alerts so far, by fingerprint; not changed.
        result: what its expression gave at `at`.
        at: evaluation time, not before the previous one.
        collected: for how long samples have been collected since the start; None: not one yet.

    Raises:
        EvalError: two elements have the same labels.
    """
    seen = _by_fingerprint(timing, result)
    after: dict[str, Alert] = {}
    transitions: list[Transition] = []
    for key, old in alerts.items():
        element = seen.pop(key, None)
        if element is None:
            moved, change = _absent(timing, old, at, collected)
        else:
            moved, change = _present(timing, old, element, at)
        if change is not None:
            transitions.append(Transition(change, moved, at))
        if change not in ("resolved", "dropped"):
            after[key] = moved
    for key, element in seen.items():
        new = Alert(key, element.labels, element.annotations, element.value, "pending", at)
        new, change = _ripen(timing, new, at)
        after[key] = new
        transitions.append(Transition(change or "pending", new, at))
    return Advanced(after, transitions)


def restore(timing: Timing, alert: Alert, at: UnixTime) -> Alert | None:
    """An alert read back at a start, as it may go on; None when it must begin anew.

    A wall clock that was set back since is tolerated: nothing is active since the future.
    """
    active_at = min(alert.active_at, at)
    if alert.state == "pending" and at - active_at > timing.hold + FORGET_PENDING:
        return None
    since = alert.keeping_since
    return replace(
        alert,
        active_at=active_at,
        fired_at=None if alert.fired_at is None else UnixTime(min(alert.fired_at, at)),
        keeping_since=None if since is None else UnixTime(min(since, at)),
        restored=True,
    )


def series(alerts: Iterable[Alert]) -> list[tuple[dict[str, str], float]]:
    """What Prometheus writes about these alerts: `ALERTS` and `ALERTS_FOR_STATE`."""
    samples: list[tuple[dict[str, str], float]] = []
    for alert in alerts:
        labels = dict(alert.labels)
        samples.append(({**labels, "__name__": "ALERTS", "alertstate": alert.state}, 1.0))
        samples.append(({**labels, "__name__": "ALERTS_FOR_STATE"}, float(int(alert.active_at))))
    return samples


def _by_fingerprint(timing: Timing, result: Iterable[Element]) -> dict[str, Element]:
    seen: dict[str, Element] = {}
    for element in result:
        key = fingerprint(element.labels)
        if key in seen:
            raise EvalError(
                f"alert {timing.name}: two results have the same labels after labelling",
                "let the expression or the rule's labels tell them apart",
            )
        seen[key] = element
    return seen


def _present(
    timing: Timing, old: Alert, element: Element, at: UnixTime
) -> tuple[Alert, Change | None]:
    alert = replace(
        old,
        labels=element.labels,
        annotations=element.annotations,
        value=element.value,
        keeping_since=None,
        restored=False,
    )
    alert, change = _ripen(timing, alert, at)
    if change is None and old.keeping_since is not None:
        change = "seen again"
    return alert, change


def _ripen(timing: Timing, alert: Alert, at: UnixTime) -> tuple[Alert, Change | None]:
    if alert.state == "pending" and at - alert.active_at >= timing.hold - _SLACK:
        return replace(alert, state="firing", fired_at=at), "firing"
    return alert, None


def _absent(
    timing: Timing, old: Alert, at: UnixTime, collected: Seconds | None
) -> tuple[Alert, Change | None]:
    if old.restored and _unproved(timing, old, collected):
        return old, None
    if old.state == "pending":
        return old, "dropped"
    if timing.keep_firing_for > 0:
        since = at if old.keeping_since is None else old.keeping_since
        if at - since < timing.keep_firing_for - _SLACK:
            change: Change | None = "keeping" if old.keeping_since is None else None
            return replace(old, keeping_since=since), change
    return old, "resolved"


def _unproved(timing: Timing, old: Alert, collected: Seconds | None) -> bool:
    """Whether an empty result may only mean that too few samples were collected yet."""
    if collected is None:
        return True
    needed = timing.looks_back
    if old.state == "pending":
        needed = min(needed, PENDING_HELD)
    return collected < needed
