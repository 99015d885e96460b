"""The parts that `series.py` stores samples in: axes, segments, series.

No module below knows where samples come from; what reads them (`promql/selectors.py`, `ranges.py`)
walks these parts directly, for a window over two thousand series must cost no more than looking at
two samples of each.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from agent.alerts.labels import Labels, Pairs

_MOST_WINDOWS = 64


class Axis:
    """The times of the columns of one source, oldest first; `base` columns were trimmed before.

    `shared` says that many series have their values in each column; the axis of one series with
    times of its own is not. The axes of one `owner` (a target's two lanes) may take a series over
    from one another; between others the first to write keeps it.
    """

    __slots__ = ("_windows", "base", "owner", "segments", "shared", "times")

    def __init__(self, shared: bool = True, owner: object = None) -> None:
        self.shared = shared
        self.owner = owner
        self.times = array("q")
        self.base = 0
        self.segments: list[Segment] = []
        self._windows: dict[tuple[int, int], tuple[int, int]] = {}

    def add(self, at: int) -> int:
        """Append a column and return its absolute index."""
        self._windows.clear()
        self.times.append(at)
        return self.base + len(self.times) - 1

    def window(self, after: int, until: int) -> tuple[int, int]:
        """The absolute indices [i, j) of the columns in (after, until], remembered until the next
        column: all series of a target ask the same."""
        found = self._windows.get((after, until))
        if found is None:
            i = bisect_right(self.times, after)
            found = (self.base + i, self.base + bisect_right(self.times, until))
            if len(self._windows) >= _MOST_WINDOWS:  # a subquery asks for many
                self._windows.clear()
            self._windows[after, until] = found
        return found

    def cut(self, gone: int) -> None:
        """Forget the `gone` oldest columns, here and in every segment."""
        del self.times[:gone]
        self.base += gone
        self._windows.clear()
        for segment in self.segments:
            segment.cut(self.base)


class Segment:
    """An unbroken run of samples of one series on one axis, from absolute column `start`.

    `falls` are the absolute columns whose value is below the one before it (a counter's resets),
    found up to column `scanned` as they are asked for.
    """

    __slots__ = ("axis", "falls", "scanned", "series", "start", "values")

    def __init__(self, series: Series, axis: Axis, start: int) -> None:
        self.series = series
        self.axis = axis
        self.start = start
        self.values = array("d")
        self.falls: list[int] = []
        self.scanned = start + 1

    @property
    def live(self) -> bool:
        """Whether its axis has no column after its last sample: it is being written now."""
        return self.start + len(self.values) >= self.axis.base + len(self.axis.times)

    @property
    def goes_on(self) -> bool:
        """Whether the next value of its series can simply be appended."""
        return bool(self.values) and self.live and self.series.segments[-1] is self

    def cut(self, base: int) -> None:
        """Forget the columns before `base`."""
        gone = base - self.start
        if gone <= 0:
            return
        del self.values[:gone]
        self.start = base
        self.scanned = max(self.scanned, base + 1)
        self.falls = [column for column in self.falls if column > base]

    def resets(self, first: int, last: int) -> list[int]:
        """The columns in (first, last] whose value fell. Each sample is looked at once, ever."""
        if self.scanned <= last:
            values, start = self.values, self.start
            before = values[self.scanned - 1 - start]
            for column in range(self.scanned, last + 1):
                value = values[column - start]
                if value < before:
                    self.falls.append(column)
                before = value
            self.scanned = last + 1
        falls = self.falls
        if not falls or falls[-1] <= first:
            return []
        return falls[bisect_right(falls, first) : bisect_right(falls, last)]


class Series:
    """One series: its labels and its segments, oldest first."""

    __slots__ = ("labels", "nameless", "segments")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.nameless = labels.nameless
        self.segments: list[Segment] = []

    def between(self, after: int, until: int) -> tuple[list[int], list[float]]:
        """The samples in (after, until]: their times in milliseconds, and their values."""
        times: list[int] = []
        values: list[float] = []
        for segment in self.segments:
            axis, start = segment.axis, segment.start
            i, j = axis.window(after, until)
            i, j = max(i, start), min(j, start + len(segment.values))
            if i < j:
                times += axis.times[i - axis.base : j - axis.base]
                values += segment.values[i - start : j - start]
        return times, values

    def latest(self, after: int, until: int) -> tuple[int, float] | None:
        """The newest sample in (after, until] that has not gone stale by `until`."""
        for segment in reversed(self.segments):
            axis, start = segment.axis, segment.start
            i, j = axis.window(after, until)
            if j <= max(i, start):
                continue
            if j > start + len(segment.values):
                return None
            return axis.times[j - 1 - axis.base], segment.values[j - 1 - start]
        return None


class Family:
    """The series of one metric name; `generation` changes whenever one comes or goes."""

    __slots__ = ("generation", "series")

    def __init__(self) -> None:
        self.generation = 0
        self.series: dict[Pairs, Series] = {}
