"""Selectors: which series an expression reads, instant vectors, ranges and subqueries of them.

The series that a selector chooses are looked up once, and again only when a series of that metric
has come or gone: a rule that runs every second finds its list ready.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from agent.alerts.labels import NAME, Labels
from agent.alerts.promql.node import LOOKBACK, Moment, Node, Range, Run, Vector
from agent.alerts.segments import Series

SUBQUERY_STEP = 60_000
"""The step of a subquery that gives none, in milliseconds: Prometheus's evaluation interval."""

Shift = Callable[[Moment], int]


@dataclass(frozen=True, slots=True)
class Matcher:
    """One label matcher. A label that is not there has an empty value."""

    name: str
    value: str
    equal: bool
    pattern: re.Pattern[str] | None = None

    def accepts(self, labels: Labels) -> bool:
        value = labels.get(self.name)
        if self.pattern is None:
            return (value == self.value) is self.equal
        return (self.pattern.fullmatch(value) is not None) is self.equal


@dataclass(frozen=True, slots=True)
class Selector:
    """Matchers, of which `name` is the metric's name when it is matched by equality."""

    name: str | None
    matchers: tuple[Matcher, ...]

    def series(self, moment: Moment) -> list[Series]:
        """The matching series in the order of their labels."""
        store = moment.store
        generation = store.generation_of(self.name)
        found = store.selections.get(self)
        if found is not None and found[0] == generation:
            return found[1]
        chosen = [
            series
            for family in store.families(self.name)
            for series in family.series.values()
            if all(matcher.accepts(series.labels) for matcher in self.matchers)
        ]
        chosen.sort(key=lambda series: series.labels.key)
        store.selections[self] = (generation, chosen)
        return chosen


def shift_of(offset: int, at: int | str | None) -> Shift:
    """When a selector with this `offset` (milliseconds) and `@` modifier looks."""
    if at is None:
        return lambda moment: moment.at - offset
    if at == "start":
        return lambda moment: moment.start - offset
    if at == "end":
        return lambda moment: moment.end - offset
    fixed = int(at) - offset
    return lambda moment: fixed


def instant(selector: Selector, shift: Shift, reach: int) -> Node:
    """The newest sample of each series, not older than the lookback and not stale."""

    def run(moment: Moment) -> Vector:
        until = shift(moment)
        after = until - LOOKBACK
        out: Vector = []
        axis = None
        i = j = 0
        for series in selector.series(moment):
            segment = series.segments[-1]
            if segment.axis is not axis:
                axis = segment.axis
                i, j = axis.window(after, until)
            place = j - 1 - segment.start
            values = segment.values
            if j > i and 0 <= place < len(values):
                out.append((series.labels, values[place]))
            elif place < 0 and (found := series.latest(after, until)) is not None:
                out.append((series.labels, found[1]))
        return out

    return Node("vector", run, selector.name is not None, reach, selector)


def instant_times(selector: Selector, shift: Shift) -> Callable[[Moment], Vector]:
    """What `timestamp(selector)` gives: when each sample was taken, in seconds."""

    def run(moment: Moment) -> Vector:
        until = shift(moment)
        out: Vector = []
        for series in selector.series(moment):
            found = series.latest(until - LOOKBACK, until)
            if found is not None:
                out.append((series.labels, found[0] / 1000))
        return out

    return run


def matrix(selector: Selector, span: int, shift: Shift, reach: int) -> Node:
    """All samples of each series in the last `span` milliseconds, left end excluded."""

    def run(moment: Moment) -> Range:
        until = shift(moment)
        after = until - span
        runs = []
        for series in selector.series(moment):
            times, values = series.between(after, until)
            if times:
                runs.append(Run(series.labels, times, values))
        return Range(runs, after, until)

    return Node("matrix", run, selector.name is not None, reach, selector, span)


def subquery(inner: Node, span: int, step: int, shift: Shift, reach: int) -> Node:
    """`inner` (a vector or scalar) at each multiple of `step` in the last `span` milliseconds."""

    def run(moment: Moment) -> Range:
        until = shift(moment)
        after = until - span
        first = step * (after // step)
        if first <= after:
            first += step
        runs: dict[Labels, Run] = {}
        for at in range(first, until + 1, step):
            then = Moment(moment.store, at, moment.start, moment.end)
            for labels, value in inner.run(then):
                found = runs.get(labels)
                if found is None:
                    found = runs[labels] = Run(labels, [], [])
                found.times.append(at)  # type: ignore[attr-defined]
                found.values.append(value)  # type: ignore[attr-defined]
        return Range(list(runs.values()), after, until)

    return Node("matrix", run, inner.one_name, reach, None, span)


def absent_labels(selector: Selector | None) -> Labels:
    """The labels that `absent` can tell: those matched by one equality."""
    told: dict[str, str] = {}
    seen: set[str] = set()
    for matcher in selector.matchers if selector else ():
        if matcher.name == NAME:
            continue
        plain = matcher.equal and matcher.pattern is None
        if plain and matcher.name not in seen:
            told[matcher.name] = matcher.value
            seen.add(matcher.name)
        else:
            told.pop(matcher.name, None)
    return Labels(told)
