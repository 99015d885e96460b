"""One target's scrapes on their way into the store.

A body's lines are mostly last scrape's lines with other numbers, so a line is recognised by the
text before its last space:

1. known series put their number into the row; comments and series that nobody watches are passed;
   a body with the lines of the last one in their order is not looked at line by line;
2. what is not recognised goes through the careful parser; anything wrong refuses the whole body;
3. only then a column is opened: the row is appended, new series begin, missing ones end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import compress, count, islice, repeat
from operator import itemgetter, ne
from typing import TYPE_CHECKING

from agent.alerts.births import Begun, Births
from agent.alerts.errors import ExpositionError
from agent.alerts.exposition import Line, parse_line
from agent.alerts.labels import NAME, Labels, Pairs
from agent.alerts.segments import Axis, Segment

if TYPE_CHECKING:
    from agent.alerts.series import SeriesStore

_COMMENT, _UNWATCHED, _NO_ROOM = -1, -2, -3
_PLAIN_NUMBER = b"0123456789+-.eEnNaAiIfF"
_FEW = 1000
_MOST_LINES = 250_000
"""Lines of one body. Beyond it, reading them would hold up every other target."""
_AHEAD_MS = 600_000
"""How far before its scrape a sample may be stamped: Prometheus's own bound."""
_REMEDY = "fix what the target exposes; `promtool check metrics` shows the same"


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of one scrape: its sample lines, those kept, those over the bound."""

    samples: int
    kept: int
    dropped: int


@dataclass(slots=True)
class _Read:
    """A body that has been read: the row of known series, what is new, what was passed over."""

    row: list[float | None]
    new: list[tuple[str, Labels, float]]
    stamped: list[tuple[Labels, int, float]]
    samples: int
    no_room: int


class Target:
    """One scraped target: its labels, its axis, the lines by which its series are recognised."""

    def __init__(self, labels: dict[str, str], fast: bool, births: Births) -> None:
        self.labels = labels
        self.stamped: dict[Pairs, Segment] = {}
        self._fast = fast
        self._on_fast: frozenset[str] = frozenset()
        self._births = births
        self._begun = Begun()
        self._axis = Axis(owner=tuple(sorted(labels.items())))
        self._slots: dict[str, int] = {}
        self._texts: list[str] = []
        self._segments: list[Segment] = []
        self._labels: list[Labels] = []
        self._appends: list[Callable[[float], None]] = []
        self._where: dict[Pairs, int] = {}
        self._had_no_room = False
        self._layout: tuple[str, ...] = ()
        self._last: tuple[list[str], list[float | None]] = ([], [])
        self._prefixes: list[str] = []
        self._length = 0
        self._pick: Callable[[list[str]], tuple[str, ...]] = tuple
        self._samples = 0

    def forget_lines(self, store: SeriesStore) -> None:
        """Look at every line anew but those of known series that are still wanted."""
        self._layout = ()
        self._last = ([], [])
        self._slots = {
            text: slot
            for slot, text in enumerate(self._texts)
            if self._wants(store, self._segments[slot].series.labels.get(NAME))
        }

    @property
    def newest(self) -> int:
        """When its newest column was, in milliseconds; 0 before the first."""
        return self._axis.times[-1] if self._axis.times else 0

    def keep_to(self, store: SeriesStore, on_fast: frozenset[str]) -> None:
        """Read what this lane is to read when `on_fast` are the metrics of the fast one."""
        if on_fast != self._on_fast:
            self._on_fast = on_fast
            self.forget_lines(store)

    def _wants(self, store: SeriesStore, name: str) -> bool:
        return store.wants(name) and (name in self._on_fast) is self._fast

    def fail(self, store: SeriesStore, at: int) -> None:
        """No answer at `at`: everything live goes stale."""
        self._age(store, at)
        if store.column(self._axis, at) is not None:
            store.trim(self._axis, at)
        self._set_live([], [])
        self._begun = Begun()

    def take(self, store: SeriesStore, at: int, body: bytes) -> Ingested:
        """Read `body` and put it in at `at`.

        Raises:
            ExpositionError: it is not in the format; nothing has been put in.
        """
        if self._had_no_room and not store.full:
            self._slots = {t: s for t, s in self._slots.items() if s != _NO_ROOM}
            self._had_no_room = False
        self._age(store, at)
        read = self._read(store, body)
        column = store.column(self._axis, at)
        if column is None:
            return Ingested(read.samples, 0, read.samples)
        if store.born_names:
            self._begin(store, at, column, read)
        if read.new or None in read.row:
            kept, dropped = self._change(store, column, read)
        else:
            for append, value in zip(self._appends, read.row, strict=True):
                append(value)  # type: ignore[arg-type]
            kept, dropped = len(read.row), 0
        kept_stamped, out_of_bounds = self._stamp(store, at, read)
        store.trim(self._axis, at)
        dropped += read.no_room + out_of_bounds
        return Ingested(read.samples, kept + kept_stamped, dropped)

    def _stamp(self, store: SeriesStore, at: int, read: _Read) -> tuple[int, int]:
        """Put in what has a time of its own; one that no query could ever reach is dropped."""
        kept = dropped = 0
        for labels, when, value in read.stamped:
            if at - store.retention * 1000 <= when <= at + _AHEAD_MS:
                kept += store.stamp(self.stamped, labels, when, value)
            else:
                dropped += 1
        store.dropped += dropped
        return kept, dropped

    def _begin(self, store: SeriesStore, at: int, column: int, read: _Read) -> None:
        """Give the counters that were born since the last scrape their sample of zero."""
        live = self._labels
        new = [(labels, value) for _, labels, value in read.new]
        for slot in self._begun.look(store, self._births, at, live, read.row, new):
            segment = store.open(live[slot], self._axis, column)
            if segment is not None:
                self._segments[slot] = segment
                self._appends[slot] = segment.values.append

    def _read(self, store: SeriesStore, body: bytes) -> _Read:
        if body.count(b"\n") > _MOST_LINES:
            raise ExpositionError(
                f"the exposition has more than {_MOST_LINES} lines", "expose fewer series"
            )
        lines = _text(body).split("\n")
        while lines and not lines[-1]:
            lines.pop()
        if not lines:
            return _Read([None] * len(self._segments), [], [], 0, 0)
        known = self._few_changed(lines) or self._same(lines)
        if known is not None:
            return known
        layout, _, numbers = zip(*map(str.rpartition, lines, repeat(" ")), strict=True)
        read = self._recognise(store, lines, zip(layout, numbers, strict=True))
        if not (read.new or read.stamped or read.no_room or None in read.row) and all(layout):
            self._memorise(layout)
        return read

    def _few_changed(self, lines: list[str]) -> _Read | None:
        """The last row with the numbers of the lines that are not as they were; None when that is
        more than a quarter of them, or a line is not the last one's with another number."""
        last, row = self._last
        if len(lines) != len(last):
            return None
        few = len(lines) // 4
        changed = list(islice(compress(count(), map(ne, lines, last)), few + 1))
        if len(changed) > few:
            return None
        now = row.copy()
        numbers: list[str] = []
        try:
            for index in changed:
                text, _, number = lines[index].rpartition(" ")
                if text != self._layout[index]:
                    return None
                slot = self._slots[text]
                if slot >= 0:
                    now[slot] = float(number)
                    numbers.append(number)
        except (KeyError, ValueError):
            return None
        if _odd(numbers):
            return None
        self._last = (lines, now)
        return _Read(now, [], [], self._samples, 0)

    def _same(self, lines: list[str]) -> _Read | None:
        """The row of a body whose lines are the last one's in their order, each with a number;
        None when it is not, or a number needs a careful look."""
        if len(lines) != len(self._layout):
            return None
        rests = list(map(str.removeprefix, lines, self._prefixes))
        # A line without its prefix comes back whole, so the lengths tell whether any did.
        if sum(map(len, lines)) - sum(map(len, rests)) != self._length:
            return None
        numbers = self._pick(rests)
        if _odd(numbers):
            return None
        try:
            row: list[float | None] = list(map(float, numbers))
        except ValueError:
            return None
        self._last = (lines, row)
        return _Read(row, [], [], self._samples, 0)

    def _memorise(self, layout: tuple[str, ...]) -> None:
        """Remember the order of a body's lines, all of which were known."""
        where = {self._slots.get(text, _COMMENT): index for index, text in enumerate(layout)}
        picked = [where[slot] for slot in range(len(self._segments))]
        if len(picked) < 2:  # itemgetter gives no tuple then, and there is nothing to gain
            return
        self._pick = itemgetter(*picked)
        self._samples = sum(1 for text in layout if self._slots.get(text) != _COMMENT)
        self._layout = layout
        self._prefixes = [text + " " for text in layout]
        self._length = sum(map(len, self._prefixes))

    def _recognise(
        self, store: SeriesStore, lines: list[str], parts: Iterable[tuple[str, str]]
    ) -> _Read:
        slots = self._slots
        row: list[float | None] = [None] * len(self._segments)
        numbers: list[str] = []
        unknown: list[int] = []
        comments = no_room = 0
        for index, (text, number) in enumerate(parts):
            slot = slots.get(text)
            if slot is None:
                unknown.append(index)
            elif slot >= 0:
                if row[slot] is not None:
                    raise _twice(text, index)
                try:
                    row[slot] = float(number)
                except ValueError:
                    unknown.append(index)  # the careful parser says what is wrong with it
                numbers.append(number)
            elif slot == _COMMENT:
                comments += 1
            elif slot == _NO_ROOM:
                no_room += 1
        if _odd(numbers):
            # float() reads more than Prometheus does (`1_000`): judge every line with care
            self._judge(lines)
        read = _Read(row, [], [], len(lines) - comments, no_room)
        self._parse(store, lines, unknown, read)
        return read

    def _judge(self, lines: list[str]) -> None:
        openmetrics = _openmetrics(lines)
        for index, line in enumerate(lines):
            parse_line(line, index + 1, openmetrics)

    def _parse(self, store: SeriesStore, lines: list[str], unknown: list[int], read: _Read) -> None:
        openmetrics = _openmetrics(lines)
        room = 4 * len(lines) + _FEW
        if len(self._slots) + len(unknown) > room:  # passed-over lines that ever change
            self.forget_lines(store)
        seen: set[Pairs] = set()
        for index in unknown:
            raw = lines[index]
            parsed = parse_line(raw, index + 1, openmetrics)
            if parsed is None:
                read.samples -= 1
                if raw.startswith("# "):
                    self._slots[raw.rpartition(" ")[0]] = _COMMENT
                continue
            if not self._wants(store, parsed.labels[NAME]):
                if parsed.at is None and raw.startswith(parsed.series + " "):
                    self._slots[parsed.series] = _UNWATCHED
                continue
            labels = self._named(parsed)
            slot = self._where.get(labels.key)
            known = slot is not None and read.row[slot] is not None
            if parsed.at is not None:
                read.stamped.append((labels, parsed.at, parsed.value))
                continue
            if labels.key in seen or known:
                raise _twice(parsed.series, index)
            seen.add(labels.key)
            read.new.append((parsed.series, labels, parsed.value))

    def _named(self, line: Line) -> Labels:
        """The line's labels with the target's; what clashes is kept as `exported_…`."""
        merged = dict(line.labels)
        for name, value in self.labels.items():
            clash = merged.pop(name, "")
            if clash:
                other = f"exported_{name}"
                while other in merged or other in self.labels:
                    other = f"exported_{other}"
                merged[other] = clash
            merged[name] = value
        return Labels(merged)

    def _change(self, store: SeriesStore, column: int, read: _Read) -> tuple[int, int]:
        """A column in which series begin or end."""
        texts: list[str] = []
        segments: list[Segment] = []
        for text, segment, value in zip(self._texts, self._segments, read.row, strict=True):
            if value is not None:
                segment.values.append(value)
                texts.append(text)
                segments.append(segment)
        dropped: list[str] = []
        for text, labels, value in read.new:
            slot = self._where.get(labels.key)  # the same series, written otherwise than before
            found = store.open(labels, self._axis, column) if slot is None else self._segments[slot]
            if found is None:
                dropped.append(text)
                continue
            found.values.append(value)
            texts.append(text)
            segments.append(found)
        self._set_live(texts, segments)
        for text in dropped:
            self._slots[text] = _NO_ROOM
            self._had_no_room = True
        return len(segments), len(dropped)

    def _set_live(self, texts: list[str], segments: list[Segment]) -> None:
        self._layout = ()
        self._last = ([], [])
        passed = {text: slot for text, slot in self._slots.items() if slot < 0}
        passed.update((text, slot) for slot, text in enumerate(texts))
        self._slots = passed
        self._texts = texts
        self._segments = segments
        self._labels = [segment.series.labels for segment in segments]
        self._appends = [segment.values.append for segment in segments]
        self._where = {seg.series.labels.key: slot for slot, seg in enumerate(segments)}

    def _age(self, store: SeriesStore, at: int) -> None:
        axis = store.aged(self._axis, at)
        if axis is not self._axis or not axis.times:
            self._axis = axis
            self._set_live([], [])


def _openmetrics(lines: list[str]) -> bool:
    return bool(lines) and lines[-1].rstrip() == "# EOF"


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise ExpositionError(f"line {line} of the exposition: not UTF-8", _REMEDY) from error


def _odd(numbers: Iterable[str]) -> bool:
    """Whether one of the texts has a character that no number has."""
    return bool("".join(numbers).encode().translate(None, _PLAIN_NUMBER))


def _twice(series: str, index: int) -> ExpositionError:
    return ExpositionError(
        f"line {index + 1} of the exposition: series {series[:200]} is given twice",
        _REMEDY,
    )
