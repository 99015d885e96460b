"""All rules, judged in order at one moment; the alerts that they have.

Groups are judged in the order of their files, those that record series before those that only
alert; within a group rule follows rule, and each sees what those before it have written at this
very moment. A rule that cannot be evaluated is counted and shown, its alerts stay as they were, and
the others go on. Evaluation is synchronous and stays on the loop: measured in single milliseconds
for a hundred rules; between groups the loop gets a turn when more than that has passed.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.alerts import lanes
from agent.alerts.errors import AlertsError, EvalError
from agent.alerts.lanes import Lane
from agent.alerts.promql import Expression, Sample, compile  # noqa: A004 - as re.compile
from agent.alerts.rules import AlertRule, Group, RecordRule
from agent.alerts.series import SeriesStore
from agent.alerts.state import (
    Alert,
    Change,
    Element,
    Timing,
    Transition,
    advance,
    fingerprint,
    restore,
    series,
)
from agent.alerts.states import Kept
from agent.alerts.template import Template
from agent.configtypes import parse_duration
from agent.telemetry.metrics import Recorder
from agent.units import Seconds, UnixTime

_TURN = 0.005
"""Seconds of evaluation after which the loop gets a turn."""
_NAME = "__name__"
_RANGE = re.compile(r"\[\s*((?:\d+(?:ms|[smhd]))+)")
NO_WINDOW = Seconds(0.0)
_MOST_QUERIES = 256


@dataclass(slots=True)
class Judged:
    """One rule and what it has come to. `id` is file, group, name and place among its namesakes."""

    id: str
    rule: AlertRule | RecordRule
    alerts: dict[str, Alert] = field(default_factory=dict)
    last_error: str | None = None
    wrote: bool = False
    window: Seconds = NO_WINDOW
    fast: bool = False
    at: UnixTime | None = None
    seconds: float = 0.0

    @property
    def state(self) -> str:
        """`inactive`, `pending`, `firing`; `recording` for a recording rule."""
        if isinstance(self.rule, RecordRule):
            return "recording"
        states = {alert.state for alert in self.alerts.values()}
        return "firing" if "firing" in states else "pending" if states else "inactive"

    @property
    def timing(self) -> Timing:
        """The durations that the state machine needs."""
        assert isinstance(self.rule, AlertRule)
        rule = self.rule
        return Timing(rule.name, rule.hold, rule.keep_firing_for, self.window)


@dataclass(slots=True)
class JudgedGroup:
    """One group, when it was judged last, and its rules."""

    group: Group
    rules: list[Judged]
    at: UnixTime | None = None
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A transition and the rule whose it is."""

    rule: str
    transition: Transition


class Judge:
    """The rules of one configuration."""

    def __init__(
        self,
        groups: Sequence[Group],
        store: SeriesStore,
        recorder: Recorder,
        external_labels: Mapping[str, str],
        fast_lane: bool = False,
    ) -> None:
        self.critical_names = lanes.critical_names(groups)
        self.fast_names = lanes.fast_names(self.critical_names) if fast_lane else frozenset()
        self.groups = [JudgedGroup(group, list(_named(group))) for group in groups]
        _open_windows(self.rules())
        quick = lanes.quick_rules(groups, self.fast_names)
        for judged in self.rules():
            judged.fast = id(judged.rule) in quick
        self._order = sorted(self.groups, key=lambda g: not _records(g.group))  # sort is stable
        self._store = store
        self._recorder = recorder
        self._external = dict(external_labels)
        self._queries: dict[str, Expression] = {}

    def rules(self) -> Iterator[Judged]:
        """Every rule, in the order of the files."""
        for group in self.groups:
            yield from group.rules

    def alerts(self) -> Iterator[Alert]:
        """Every pending or firing alert."""
        for judged in self.rules():
            yield from judged.alerts.values()

    def names(self) -> frozenset[str] | None:
        """Metric names that the rules mention; None when one may mention any."""
        found: set[str] = set()
        for judged in self.rules():
            names = judged.rule.expr.names
            if names is None:
                return None
            found |= names
        return frozenset(found)

    def longest_range(self) -> Seconds:
        """How far back the rules look, in seconds."""
        return Seconds(
            max(
                (
                    judged.rule.expr.longest_range + group.group.query_offset
                    for group in self.groups
                    for judged in group.rules
                ),
                default=0.0,
            )
        )

    def adopt(
        self, kept: Iterable[Kept], at: UnixTime
    ) -> tuple[list[tuple[str, Kept]], list[Kept]]:
        """Give each remembered alert back to its rule: the same one, else one of the same name.

        Returns the adopted (the identity that it had before, and as it is now), and those whose
        rule is gone or whose time is over.
        """
        by_id = {j.id: j for j in self.rules() if isinstance(j.rule, AlertRule)}
        by_name: dict[str, list[Judged]] = {}
        for judged in by_id.values():
            by_name.setdefault(judged.rule.name, []).append(judged)
        adopted: list[tuple[str, Kept]] = []
        orphans: list[Kept] = []
        for item in kept:
            namesakes = by_name.get(item.alert.name, [])
            home = by_id.get(item.rule) or (namesakes[0] if namesakes else None)
            alert = restore(home.timing, item.alert, at) if home else None
            if home is None or alert is None or alert.fingerprint in home.alerts:
                orphans.append(item)
                continue
            home.alerts[alert.fingerprint] = alert
            adopted.append((item.rule, Kept(home.id, alert)))
        return adopted, orphans

    def silence_series(self, successor: Judge, at: UnixTime) -> None:
        """What rules wrote that the successor has not goes stale."""
        stays = {judged.id for judged in successor.rules()}
        for judged in self.rules():
            if judged.id not in stays:
                self._store.write(judged.id, at, ())

    async def judge(
        self,
        at: UnixTime,
        collected: Seconds | None,
        interval: Seconds,
        lane: Lane = "all",
        again: UnixTime | None = None,
    ) -> list[Verdict]:
        """Judge what it is time for; return what changed.

        Args:
            at: the moment; a rule that was judged then or later is passed over.
            collected: for how long samples have been collected.
            interval: how often the groups that give no interval are judged.
            lane: `fast`: the rules of the fast lane, whenever they are asked for; `slow`: the
                others, of every group that is due; `all`: both.
            again: groups that were judged at this moment are due once more: samples came late.
        """
        verdicts: list[Verdict] = []
        turn = time.perf_counter()
        for group in self._order:
            if lane == "fast":
                rules = [judged for judged in group.rules if judged.fast]
            elif not self._due(group, at, interval, again):
                continue
            else:
                rules = [j for j in group.rules if lane == "all" or not j.fast]
            if not rules:
                continue
            began = time.perf_counter()
            for judged in rules:
                if judged.at is None or at > judged.at:
                    judged.at = at
                    start = time.perf_counter()
                    verdicts.extend(self._judge_one(group.group, judged, at, collected))
                    judged.seconds = time.perf_counter() - start
            now = time.perf_counter()
            self._recorder.observe("rule_group_seconds", now - began)
            if now - turn > _TURN:
                await asyncio.sleep(0)
                turn = time.perf_counter()
        return verdicts

    def _due(
        self, group: JudgedGroup, at: UnixTime, interval: Seconds, again: UnixTime | None
    ) -> bool:
        if again is not None:
            return group.at == again
        every = group.group.interval or interval
        if group.at is not None:
            since = at - group.at
            if since < every - interval / 2:
                return False
            missed = max(0, round(since / every) - 1)
            if missed:
                group.missed += missed
                self._recorder.inc("rule_group_missed_total", missed)
        group.at = at
        return True

    def _judge_one(
        self, group: Group, judged: Judged, at: UnixTime, collected: Seconds | None
    ) -> Iterator[Verdict]:
        try:
            judged.last_error = None
            looks_at = UnixTime(at - group.query_offset)
            result = judged.rule.expr.instant(self._store, looks_at)
            if isinstance(judged.rule, RecordRule):
                recorded = _recorded(judged.rule, result)
                if over := _over(group, len(recorded)):
                    recorded = sorted(recorded, key=lambda pair: sorted(pair[0].items()))
                    recorded, judged.last_error = recorded[: group.limit], over
                self._store.write(judged.id, at, recorded)
                transitions: list[Transition] = []
            else:
                elements = self._elements(judged.rule, result, looks_at)
                limit = group.limit or MOST_ALERTS
                if len(elements) > limit:
                    judged.last_error = _over(group, len(elements)) or (
                        f"gives {len(elements)} alerts, of which the first {limit} are kept;"
                        " its group sets no limit of its own"
                    )
                    elements = _first(limit, elements, judged.alerts)
                moved = advance(judged.timing, judged.alerts, elements, at, collected)
                judged.alerts, transitions = moved.alerts, moved.transitions
                if judged.alerts or judged.wrote:
                    self._store.write(judged.id, at, series(judged.alerts.values()))
                    judged.wrote = bool(judged.alerts)
        except AlertsError as error:
            judged.last_error = str(error)
            self._recorder.inc("rule_evaluations_total", outcome="error")
            return
        except Exception as error:  # noqa: BLE001 - one rule's fault must not stop the others
            judged.last_error = f"fault of the agent: {type(error).__name__}"
            self._recorder.inc("rule_evaluations_total", outcome="error")
            return
        self._recorder.inc("rule_evaluations_total", outcome="ok")
        for transition in transitions:
            yield Verdict(judged.id, transition)

    def _elements(self, rule: AlertRule, result: Iterable[Sample], at: UnixTime) -> list[Element]:
        def query(text: str) -> list[Sample]:
            return self._ask(text, at)

        def expand(template: Template, sample: Sample) -> str:
            return template.render(sample.labels, sample.value, self._external, query)

        elements = []
        for sample in result:
            labels = {key: value for key, value in sample.labels.items() if key != _NAME}
            for name, template in rule.labels.items():
                labels[name] = expand(template, sample)
            labels["alertname"] = rule.name
            labels = {key: value for key, value in labels.items() if value}
            told = {name: expand(template, sample) for name, template in rule.annotations.items()}
            elements.append(Element(labels, told, sample.value))
        return elements

    def _ask(self, text: str, at: UnixTime) -> list[Sample]:
        """A template's `query`."""
        expression = self._queries.get(text)
        if expression is None:
            expression = compile(text)
            if len(self._queries) >= _MOST_QUERIES:
                self._queries.clear()  # texts made from label values have no bound
            self._queries[text] = expression
        return list(expression.instant(self._store, at))


def vanished(kept: Kept, at: UnixTime) -> Verdict:
    """The end of an alert whose rule is gone."""
    change: Change = "resolved" if kept.alert.state == "firing" else "dropped"
    return Verdict(kept.rule, Transition(change, kept.alert, at))


def _named(group: Group) -> Iterator[Judged]:
    counts: dict[str, int] = {}
    for rule in group.rules:
        number = counts[rule.name] = counts.get(rule.name, 0) + 1
        yield Judged(f"{group.file}\n{group.name}\n{rule.name}\n{number}", rule)


def _open_windows(rules: Iterable[Judged]) -> None:
    """Note how much of the past each rule needs before an empty result means anything.

    That is its widest range, and that of the recording rules before it whose series it reads.
    (`longest_range` is no measure of it: an instant selector looks back five minutes for a sample,
    but needs only one.)
    """
    recorded: dict[str, Seconds] = {}
    for judged in rules:
        expr = judged.rule.expr
        ranges = [_seconds(text) for text in _RANGE.findall(expr.text)]
        ranges += [recorded[name] for name in expr.names or () if name in recorded]
        judged.window = max(ranges, default=NO_WINDOW)
        if isinstance(judged.rule, RecordRule):
            recorded[judged.rule.name] = judged.window


MOST_ALERTS = 1000
"""Alerts of one rule whose group sets no `limit`: a flood beyond it would hold up all others."""


def _seconds(duration: str) -> Seconds:
    parsed = parse_duration(duration)
    assert isinstance(parsed, float)
    return Seconds(parsed)


def _over(group: Group, count: int) -> str:
    """What to say when a rule gives more than its group allows; empty otherwise."""
    if not 0 < group.limit < count:
        return ""
    return f"gives {count}, the group's limit is {group.limit}: the others are not kept"


def _first(limit: int, elements: list[Element], alerts: Mapping[str, Alert]) -> list[Element]:
    """The first `limit` in the order of their labels, those that are alerts already before all."""

    def order(element: Element) -> tuple[bool, list[tuple[str, str]]]:
        return fingerprint(element.labels) not in alerts, sorted(element.labels.items())

    return sorted(elements, key=order)[:limit]


def _records(group: Group) -> bool:
    return any(isinstance(rule, RecordRule) for rule in group.rules)


def _recorded(rule: RecordRule, result: Iterable[Sample]) -> list[tuple[dict[str, str], float]]:
    written: list[tuple[dict[str, str], float]] = []
    seen: set[tuple[tuple[str, str], ...]] = set()
    for sample in result:
        labels = {**sample.labels, **rule.labels, _NAME: rule.name}
        labels = {key: value for key, value in labels.items() if value}
        key = tuple(sorted(labels.items()))
        if key in seen:
            raise EvalError(
                f"recording rule {rule.name}: two results have the same labels",
                "let the expression or the rule's labels tell them apart",
            )
        seen.add(key)
        written.append((labels, sample.value))
    return written
