"""Samples in memory: what the rules look at.

A scrape is one column of its target's time axis, and each series of that target puts its value into
the column; a series without a value there has gone stale at that moment, as in Prometheus. A series
is therefore a list of segments, each an unbroken run of columns, and no markers are stored: eight
bytes a sample. Samples with a time of their own (an exposition's timestamps, a replayed log) get an
axis of their own, and are never stale but by age.

One thread uses a store. Times come in as seconds since the epoch and are kept as whole
milliseconds, the resolution that Prometheus evaluates with. A wall clock that is set back discards
what the axis held: a window that starts anew is better than alerts that wait for the clock to catch
up.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping

from agent.alerts.births import Births, told_by
from agent.alerts.ingest import Ingested, Target
from agent.alerts.labels import NAME, Labels, Pairs
from agent.alerts.segments import Axis, Family, Segment, Series
from agent.units import Seconds

__all__ = ["Ingested", "SeriesStore"]

_TRIM_AT_LEAST = 32
_MOST_SELECTIONS = 4096


class _Origin:
    """A writer of synthetic series: one axis and what is live on it."""

    __slots__ = ("axis", "live")

    def __init__(self) -> None:
        self.axis = Axis()
        self.live: dict[Pairs, Segment] = {}


class SeriesStore:
    """All series that the rules mention, for as long as the rules look back.

    Args:
        max_series: bound on the number of series; a new one beyond it is dropped and counted.
        retention: how far back samples are kept.
    """

    def __init__(self, max_series: int, retention: Seconds) -> None:
        self.retention = retention
        self.generation = 0
        self.count = 0
        self.dropped = 0
        self.selections: dict[object, tuple[int, list[Series]]] = {}
        self._max = max_series
        self._watched: frozenset[str] | None = None
        self._families: dict[str, Family] = {}
        self._targets: dict[tuple[Pairs, bool], Target] = {}
        self._births: dict[Pairs, Births] = {}
        self.born_names: frozenset[str] = frozenset()
        self._birth_names: frozenset[str] = frozenset()
        self._origins: dict[str, _Origin] = {}
        self._replayed: dict[Pairs, Segment] = {}
        self._collected = 0

    # What the engine does.

    def watch(self, names: frozenset[str] | None) -> None:
        """Keep only metrics of these names (a histogram by its sample names); None keeps all."""
        self._watched = names
        for target in self._targets.values():
            target.forget_lines(self)

    def watch_births(self, names: frozenset[str]) -> None:
        """Begin the counters of these names with a sample of zero where they were born."""
        self.born_names = names
        self._birth_names = told_by(names)

    def ingest(
        self, target: Mapping[str, str], at: float, body: bytes, fast: bool = False
    ) -> Ingested:
        """Take one scrape of `target` made at `at` (seconds since the epoch).

        Series of the target's lane that are not in `body` become stale at `at`. A line that nobody
        watches is judged when it is first seen, and not again.

        Raises:
            ExpositionError: `body` is not in an exposition format; nothing of it is kept.
        """
        return self._target(target, fast).take(self, _ms(at), body)

    def fail(self, target: Mapping[str, str], at: float) -> None:
        """A scrape of `target` failed at `at`: all its series become stale, on both lanes."""
        self._target(target, False).fail(self, _ms(at))
        fast = self._targets.get(_key(target, True))
        if fast is not None:  # its newest column may be younger than the scrape that failed
            fast.fail(self, max(_ms(at), fast.newest + 1))

    def divide(self, target: Mapping[str, str], fast: frozenset[str]) -> None:
        """From now on the metrics `fast` of `target` are taken from its fast lane alone, and the
        others from the other. Neither lane makes a series of the other stale; what changes lanes
        stays as it is until its new lane writes it."""
        for lane in (False, True):
            self._target(target, lane).keep_to(self, fast)

    def write(
        self, origin: str, at: float, samples: Iterable[tuple[Mapping[str, str], float]]
    ) -> None:
        """Take synthetic series. What `origin` wrote before and not now becomes stale."""
        source = self._origins.get(origin)
        if source is None:
            source = self._origins[origin] = _Origin()
        when = _ms(at)
        axis = self.aged(source.axis, when)
        if axis is not source.axis or not axis.times:
            source.axis, source.live = axis, {}
        column = self.column(axis, when)
        if column is None:
            return
        live = source.live
        source.live = {}
        for mapping, value in samples:
            labels = Labels(mapping)
            if labels.key in source.live:
                continue
            segment = live.get(labels.key) or self.open(labels, axis, column)
            if segment is None:
                continue
            segment.values.append(value)
            source.live[labels.key] = segment
        self.trim(axis, when)

    def append(self, labels: Mapping[str, str], at: float, value: float | None) -> None:
        """Add one sample on the series' own axis; None marks it stale there. For replays."""
        made = Labels(labels)
        if value is not None:
            self.stamp(self._replayed, made, _ms(at), value)
        elif (segment := self._replayed.get(made.key)) is not None and segment.goes_on:
            segment.axis.add(_ms(at))

    # What an evaluation reads.

    def families(self, name: str | None) -> Iterator[Family]:
        """The families of metric `name`, or all."""
        if name is None:
            yield from self._families.values()
        elif name in self._families:
            yield self._families[name]

    def generation_of(self, name: str | None) -> int:
        """Changes whenever a series of metric `name` (None: any) comes or goes."""
        if name is None:
            return self.generation
        family = self._families.get(name)
        return -1 if family is None else family.generation

    # What a scrape in progress does (ingest.py).

    def wants(self, name: str) -> bool:
        """Whether some rule mentions metric `name`."""
        return self._watched is None or name in self._watched or name in self._birth_names

    @property
    def full(self) -> bool:
        """Whether a new series would be dropped."""
        return self.count >= self._max

    def aged(self, axis: Axis, at: int) -> Axis:
        """`axis`, or a new one when the clock was set back and all on it has been discarded."""
        if not axis.times or at >= axis.times[-1]:
            return axis
        for segment in axis.segments:
            segment.values = array("d")
        self.sweep(axis)
        return Axis(owner=axis.owner)

    def column(self, axis: Axis, at: int) -> int | None:
        """Open a column at `at`; None when the axis has one of that very millisecond."""
        if axis.times and at <= axis.times[-1]:
            return None
        return axis.add(at)

    def open(self, labels: Labels, axis: Axis, column: int) -> Segment | None:
        """A segment of the series `labels` from `column` on, the series made if it is new.

        None, and counted as dropped, when there is no room or another source is writing that
        series now: the first to write keeps it.
        """
        name = labels.get(NAME)
        family = self._families.get(name)
        series = family.series.get(labels.key) if family else None
        if series is None:
            if self.full:
                self._collect(axis.times[-1] if axis.times else 0)
            if self.full:
                self.dropped += 1
                return None
            family = self._families.setdefault(name, Family())
            series = family.series[labels.key] = Series(labels)
            self._changed(family, 1)
        elif series.segments and _in_the_way(series.segments[-1], axis):
            # A lane that takes over is only late by a scrape: that is no sample lost.
            self.dropped += series.segments[-1].axis.owner != axis.owner or axis.owner is None
            return None
        segment = Segment(series, axis, column)
        series.segments.append(segment)
        axis.segments.append(segment)
        return segment

    def stamp(self, live: dict[Pairs, Segment], labels: Labels, at: int, value: float) -> bool:
        """A sample with a time of its own. One that is not newer than the last is not kept."""
        segment = live.get(labels.key)
        if segment is None or not segment.goes_on:
            axis = segment.axis if segment else Axis(shared=False)
            column = self.column(axis, at)
            segment = None if column is None else self.open(labels, axis, column)
            if segment is None:
                return False
            live[labels.key] = segment
        elif self.column(segment.axis, at) is None:
            return False
        segment.values.append(value)
        self.trim(segment.axis, at)
        return True

    def trim(self, axis: Axis, at: int) -> None:
        """Forget the columns older than the retention, a good many at a time."""
        gone = bisect_right(axis.times, at - int(self.retention * 1000))
        if gone < _TRIM_AT_LEAST or gone * 8 < len(axis.times):
            return
        axis.cut(gone)
        self.sweep(axis)

    # The rest is the store's own.

    def _target(self, labels: Mapping[str, str], fast: bool) -> Target:
        key = _key(labels, fast)
        found = self._targets.get(key)
        if found is None:
            births = self._births.setdefault(key[0], Births())
            found = self._targets[key] = Target(dict(labels), fast, births)
        return found

    def _collect(self, at: int) -> None:
        """Make room: forget what no source has added to for as long as samples are kept."""
        if at == self._collected:
            return
        self._collected = at
        oldest = at - int(self.retention * 1000)
        axes = {
            id(segment.axis): segment.axis
            for family in self._families.values()
            for series in family.series.values()
            for segment in series.segments
        }
        for axis in axes.values():
            if axis.times and axis.times[-1] <= oldest:
                axis.cut(len(axis.times))
                self.sweep(axis)
        self._replayed = {k: s for k, s in self._replayed.items() if s.values}
        for target in self._targets.values():
            target.stamped = {k: s for k, s in target.stamped.items() if s.values}

    def sweep(self, axis: Axis) -> None:
        """Remove the segments that have no samples left, and the series that have no segments."""
        kept = []
        for segment in axis.segments:
            if segment.values:
                kept.append(segment)
                continue
            series = segment.series
            series.segments.remove(segment)
            if not series.segments:
                family = self._families[series.labels.get(NAME)]
                del family.series[series.labels.key]
                self._changed(family, -1)
        axis.segments = kept

    def _changed(self, family: Family, by: int) -> None:
        self.count += by
        self.generation += 1
        family.generation = self.generation
        if len(self.selections) > _MOST_SELECTIONS:
            self.selections.clear()


def _in_the_way(last: Segment, axis: Axis) -> bool:
    """Whether a series whose last segment is `last` cannot go on in the newest column of `axis`:
    another source is writing it, or has samples that are as new."""
    other = last.axis
    if other is axis:
        return False
    related = other.owner is not None and other.owner == axis.owner
    if other.shared and axis.shared and not related:
        return last.live
    end = last.start + len(last.values) - 1 - other.base
    return bool(other.times) and end >= 0 and other.times[end] >= axis.times[-1]


def _key(labels: Mapping[str, str], fast: bool) -> tuple[Pairs, bool]:
    return tuple(sorted(labels.items())), fast


def _ms(at: float) -> int:
    return round(at * 1000)
