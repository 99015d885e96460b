"""When counters were born, so that what they counted before they were first seen is not lost.

A counter that appears with 1, or that restarts and is at its old value again by the next scrape,
has no increase in Prometheus's eyes. Here it begins with a sample of zero at the moment of its
birth, if that moment is known and lies after its last sample:

1. the `_created` series of its family (OpenMetrics, and the text format of client libraries that
   write it) says it exactly
2. otherwise, for `…_total` and `…_bucket` alone, `process_start_time_seconds`: a process that
   started after the last good scrape began all its counters then; a counter that a process shows
   for the first time, and did not show at the last good scrape, was zero at that scrape

Without either nothing is invented. A series that a process showed, took away and shows again is not
newly born. Only the counters that `SeriesStore.watch_births` names are treated so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from agent.alerts.labels import NAME, Labels, Pairs
from agent.alerts.segments import Axis, Segment

if TYPE_CHECKING:
    from agent.alerts.series import SeriesStore

STARTED = "process_start_time_seconds"
_CREATED = "_created"
_SUFFIXES = ("_total", "_bucket", "_count", "_sum")
_COUNTERS = ("_total", "_bucket")
_MOST_SEEN = 20_000

Key = tuple[str, Pairs]


def base_name(name: str) -> str:
    """The family's name: without `_total`, `_bucket`, `_count`, `_sum`."""
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return name


def counters(names: Iterable[str]) -> frozenset[str]:
    """Those names that are counters' by their suffix."""
    return frozenset(name for name in names if name.endswith(_SUFFIXES))


def told_by(names: Iterable[str]) -> frozenset[str]:
    """The series that tell when the counters `names` began."""
    made = {base_name(name) + _CREATED for name in names}
    return frozenset(made | {STARTED}) if made else frozenset()


class Births:
    """What is known of one target's process, on whichever lane it was told."""

    def __init__(self) -> None:
        self.started: int | None = None
        self.seen: set[Pairs] = set()
        self.zeros: deque[Axis] = deque()

    def process(self, started: int) -> None:
        """The process says when it started; another one has shown nothing yet."""
        if started != self.started:
            self.started = started
            self.seen.clear()


class Begun:
    """What one lane has seen of births since its last failure."""

    def __init__(self) -> None:
        self._good_at: int | None = None
        self._started: int | None = None
        self._created: dict[Key, float] = {}
        self._told: tuple[float | None, ...] = ()
        self._live: Sequence[Labels] = ()
        self._telling: list[int] = []
        self._eligible: list[tuple[int, Key]] = []

    def look(
        self,
        store: SeriesStore,
        births: Births,
        at: int,
        live: Sequence[Labels],
        row: Sequence[float | None],
        new: Sequence[tuple[Labels, float]],
    ) -> list[int]:
        """Write the zeros that a scrape at `at` (milliseconds) calls for.

        Args:
            live: labels of the series of the last scrape, and `row` their values now.
            new: the series that were not in the last scrape.

        Returns:
            The places in `live` whose series began anew: each needs a fresh segment.
        """
        self._index(store, live)
        told = tuple(row[slot] for slot in self._telling)
        reborn: list[int] = []
        if new or told != self._told or births.started != self._started:
            self._told = told
            now = self._listen(births, live, row, new)
            zeros: list[Axis] = []
            if self._good_at is not None:
                reborn = self._again(store, births, at, live, row, now, zeros)
            for labels, value in new:
                self._first(store, births, at, labels, value, now, zeros)
            births.zeros.extend(zeros)
            self._created = now
            self._started = births.started
        self._good_at = at
        oldest = at - int(store.retention * 1000)
        while births.zeros and births.zeros[0].times[-1] <= oldest:
            axis = births.zeros.popleft()
            axis.cut(len(axis.times))
            store.sweep(axis)
        return reborn

    def _index(self, store: SeriesStore, live: Sequence[Labels]) -> None:
        if live is self._live:
            return
        self._live = live
        telling = [(slot, labels.get(NAME)) for slot, labels in enumerate(live)]
        self._telling = [slot for slot, name in telling if _tells(name)]
        self._eligible = [
            (slot, _key(live[slot])) for slot, name in telling if name in store.born_names
        ]

    def _listen(
        self,
        births: Births,
        live: Sequence[Labels],
        row: Sequence[float | None],
        new: Sequence[tuple[Labels, float]],
    ) -> dict[Key, float]:
        """The moments of birth that this scrape tells, in milliseconds."""
        created: dict[Key, float] = {}
        said = [(live[slot], row[slot]) for slot in self._telling]
        said += [pair for pair in new if _tells(pair[0].get(NAME))]
        for labels, value in said:
            if value is None or not 0 < value < 1e12:
                continue
            if labels.get(NAME) == STARTED:
                births.process(round(value * 1000))
            else:
                created[_key(labels)] = round(value * 1000)
        return created

    def _again(
        self,
        store: SeriesStore,
        births: Births,
        at: int,
        live: Sequence[Labels],
        row: Sequence[float | None],
        now: dict[Key, float],
        zeros: list[Axis],
    ) -> list[int]:
        restarted = self._started is not None and births.started != self._started
        reborn = []
        for slot, key in self._eligible:
            value = row[slot]
            if value is None or not value > 0:
                continue
            born, before = now.get(key), self._created.get(key)
            if born is None and restarted and live[slot].get(NAME).endswith(_COUNTERS):
                born = births.started
            elif born is None or before is None or born <= before:
                continue
            # It happened between the two scrapes, whatever the target's clock says.
            assert self._good_at is not None
            assert born is not None
            when = min(max(int(born), self._good_at + 1), at - 1)
            if when > self._good_at and _zero(store, live[slot], when, zeros):
                reborn.append(slot)
        return reborn

    def _first(
        self,
        store: SeriesStore,
        births: Births,
        at: int,
        labels: Labels,
        value: float,
        now: dict[Key, float],
        zeros: list[Axis],
    ) -> None:
        name = labels.get(NAME)
        if name not in store.born_names:
            return
        born = now.get(_key(labels))
        if born is None and name.endswith(_COUNTERS) and births.started is not None:
            born = births.started
            if self._good_at is not None and self._good_at > born:
                known = labels.key in births.seen or len(births.seen) >= _MOST_SEEN
                born = None if known else self._good_at
            births.seen.add(labels.key)
        if born is not None and value > 0:
            when = min(int(born), at - 1)
            if when > at - store.retention * 1000:
                _zero(store, labels, when, zeros)


def _zero(store: SeriesStore, labels: Labels, when: int, zeros: list[Axis]) -> bool:
    """A sample of zero at `when`; not when the series has a newer one."""
    made: dict[Pairs, Segment] = {}
    if not store.stamp(made, labels, when, 0.0):
        return False
    zeros.append(made[labels.key].axis)
    return True


def _key(labels: Labels) -> Key:
    """What a counter and the series that tells its birth have in common."""
    name = labels.get(NAME)
    base = name[: -len(_CREATED)] if name.endswith(_CREATED) else base_name(name)
    return base, tuple(pair for pair in labels.key if pair[0] not in (NAME, "le", "quantile"))


def _tells(name: str) -> bool:
    return name == STARTED or name.endswith(_CREATED)
