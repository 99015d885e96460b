"""Prometheus's test language (promql/promqltest/README.md): parsed, and played on our evaluator.

A case is one `eval`. It passes, fails, or is refused: by our compiler (aloud, before evaluating
anything) or here, where it is about what the agent does not have (native histograms, annotations
alone). Annotations (`expect warn`, `expect info`) are Prometheus's own and not compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isinf, isnan
from typing import Literal

from agent.alerts import promql
from agent.alerts.errors import EvalError, ExprError
from agent.alerts.labels import Labels
from agent.alerts.promql import Sample
from agent.alerts.rules import parse_duration
from agent.alerts.series import SeriesStore
from agent.units import Seconds

_SERIES = re.compile(r'^((?:[\w:]+)?(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?)\s*(.*)$')
_PAIR = re.compile(r'\s*(?:([\w.]+)|"((?:[^"\\]|\\.)*)")\s*(?:=\s*"((?:[^"\\]|\\.)*)")?\s*,?')
_NUMBER = r"[-+]?(?:[0-9.]+(?:[eE][-+]?[0-9]+)?|(?i:inf|nan))"
_POINT = re.compile(rf"^({_NUMBER})(?:([-+])({_NUMBER}))?(?:x([0-9]+))?$")
_OMITTED = re.compile(r"^(_|stale)(?:x([0-9]+))?$")
_INSTANT = re.compile(r"^eval(_\w+)?\s+instant\s+(?:at\s+(\S+)\s+)?(.+)$")
_RANGE = re.compile(r"^eval(_\w+)?\s+range\s+from\s+(\S+)\s+to\s+(\S+)\s+step\s+(\S+?)\s+(.+)$")
_TOLERANCE = 1e-6

Verdict = Literal["passed", "failed", "refused"]
Point = float | None | Literal["stale"]


class NativeHistogramError(Exception):
    """The case is about native histograms."""


@dataclass
class Case:
    """One `eval` and what is expected of it."""

    line: int
    expr: str
    start: float
    end: float
    step: float | None
    fails: bool = False
    ordered: bool = False
    native: bool = False
    text: str | None = None
    matrix: bool = False
    expected: list[tuple[Labels, list[Point]]] = field(default_factory=list)


@dataclass
class Outcome:
    """What became of a case, and why."""

    case: Case
    verdict: Verdict
    why: str = ""


@dataclass
class Load:
    """Series to add."""

    step: float
    series: list[tuple[Labels, list[Point]]]
    native: set[str]


def read(text: str) -> Iterator[Load | Case | Literal["clear"]]:
    """The commands of a test file, in order."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line = _bare(lines[at])
        number = at + 1
        at += 1
        if not line or line.startswith(("ignore", "resume")):
            continue
        body: list[str] = []
        while at < len(lines) and not _command(lines[at]):
            inner = _bare(lines[at])
            at += 1
            if not inner:
                if body and not lines[at - 1].strip():
                    break
                continue
            body.append(inner)
        if line.startswith("clear"):
            yield "clear"
        elif line.startswith("load"):
            yield _load(line, body)
        else:
            yield _case(line, number, body)


def _bare(line: str) -> str:
    return "" if line.strip().startswith("#") else line.strip()


def _command(line: str) -> bool:
    return re.match(r"^(load|eval|clear|ignore|resume)", line.strip()) is not None


def _load(line: str, body: list[str]) -> Load:
    series = []
    native: set[str] = set()
    for text in body:
        try:
            series.append(parse_series(text))
        except NativeHistogramError:
            native.add(re.split(r"[{\s]", text)[0])
    if line.startswith("load_with_nhcb"):
        names = {labels.get("__name__") for labels, _ in series}
        native |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    return Load(parse_duration(line.split()[1]), series, native)


def _case(line: str, number: int, body: list[str]) -> Case:
    instant, ranged = _INSTANT.match(line), _RANGE.match(line)
    if instant is not None:
        kind, when, expr = instant.groups()
        at = _time(when or "0")
        case = Case(number, expr, at, at, None)
    else:
        assert ranged is not None, line
        kind, start, end, step, expr = ranged.groups()
        case = Case(number, expr, _time(start), _time(end), _time(step))
    case.fails = kind == "_fail"
    case.ordered = kind == "_ordered"
    for text in body:
        _expect(case, text)
    return case


def _time(text: str) -> float:
    sign, text = (-1.0, text[1:]) if text.startswith("-") else (1.0, text)
    try:
        return sign * float(text)
    except ValueError:
        return sign * parse_duration(text)


def _expect(case: Case, text: str) -> None:
    if text.startswith("expect "):
        what = text.split()[1]
        case.fails = case.fails or what == "fail"
        case.ordered = case.ordered or what == "ordered"
        if what == "string":
            case.text = text.split(None, 2)[2]
        case.matrix = case.matrix or what == "range"
        return
    if text.startswith(("expected_fail",)):
        return
    try:
        case.expected.append(parse_series(text))
    except NativeHistogramError:
        case.native = True


def parse_series(text: str) -> tuple[Labels, list[Point]]:
    """`name{label="value"} 1 2+1x3 _ stale`."""
    if "{{" in text:
        raise NativeHistogramError
    if re.match(rf"^{_NUMBER}$", text):
        return Labels(()), [float(text)]
    match = _SERIES.match(text)
    assert match is not None, text
    points: list[Point] = []
    for part in match.group(2).split():
        points += _points(part)
    return _labels(match.group(1)), points


def _labels(text: str) -> Labels:
    name, _, inner = text.partition("{")
    found = {"__name__": name} if name else {}
    for pair in _PAIR.finditer(inner.rstrip("}")):
        bare, quoted, value = pair.groups()
        key = bare or quoted
        if value is None:
            if key:
                found["__name__"] = key
        else:
            found[key] = value.encode().decode("unicode_escape").encode("latin-1").decode()
    return Labels(found)


def _points(part: str) -> list[Point]:
    omitted = _OMITTED.match(part)
    if omitted is not None:
        times = int(omitted.group(2)) if omitted.group(2) else 1
        return [None if omitted.group(1) == "_" else "stale"] * times
    match = _POINT.match(part)
    assert match is not None, part
    start, sign, step, times_text = match.groups()
    value = float(start)
    if times_text is None:
        return [value]
    by = float(step) * (-1 if sign == "-" else 1) if step else 0.0
    out: list[Point] = []
    for _ in range(int(times_text) + 1):
        out.append(value)
        value += by
    return out


class Player:
    """Plays one file's commands and yields an outcome for each case."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._loaded: dict[Labels, dict[int, float | None]] = {}
        self._store: SeriesStore | None = None
        self._native: set[str] = set()

    def play(self, text: str) -> Iterator[Outcome]:
        """Everything in a file."""
        for command in read(text):
            if isinstance(command, Case):
                yield self._judge(command)
            elif isinstance(command, Load):
                self._load(command)
            else:
                self._clear()

    def _load(self, load: Load) -> None:
        self._store = None
        self._native |= load.native
        for labels, points in load.series:
            column = self._loaded.setdefault(labels, {})
            for index, point in enumerate(points):
                at = round(index * load.step * 1000)
                if point == "stale":
                    column[at] = None
                elif point is not None:
                    column[at] = float(point)

    def store(self) -> SeriesStore:
        """What has been loaded."""
        if self._store is None:
            self._store = SeriesStore(100_000, Seconds(1e12))
            for labels, column in self._loaded.items():
                for at in sorted(column):
                    self._store.append(labels.map, at / 1000, column[at])
        return self._store

    def _judge(self, case: Case) -> Outcome:
        if case.native:
            return Outcome(case, "refused", "expects native histograms")
        if case.text is not None or case.matrix:
            try:
                promql.compile(case.expr)
            except ExprError as error:
                return Outcome(case, "refused", str(error))
            return Outcome(case, "failed", "neither a string nor a range vector was refused")
        try:
            expression = promql.compile(case.expr)
        except ExprError as error:
            return Outcome(case, "passed" if case.fails else "refused", str(error))
        try:
            if case.step is None:
                result = expression.instant(self.store(), case.start)
                why = _compare_instant(case, result)
            else:
                steps = list(expression.over(self.store(), case.start, case.end, case.step))
                why = _compare_range(case, steps)
            why = "did not fail" if case.fails else why
        except EvalError as error:
            why = "" if case.fails else f"raised: {error}"
        native = self._native and (expression.names is None or expression.names & self._native)
        if why and native:
            return Outcome(case, "refused", "reads native histograms")
        return Outcome(case, "failed" if why else "passed", why)


def _compare_instant(case: Case, result: list[Sample]) -> str:
    want = [(labels, points[0]) for labels, points in case.expected if points]
    got = [(Labels(sample.labels), sample.value) for sample in result]
    if not case.ordered:
        want.sort(key=lambda pair: pair[0].key)
        got.sort(key=lambda pair: pair[0].key)
    if [labels for labels, _ in want] != [labels for labels, _ in got]:
        return f"expected {want}, got {got}"
    for (labels, value), (_, found) in zip(want, got, strict=True):
        assert isinstance(value, float)
        if not alike(value, found):
            return f"{labels}: expected {value!r}, got {found!r}"
    return ""


def _compare_range(case: Case, steps: list[tuple[float, list[Sample]]]) -> str:
    got: dict[Labels, list[Point]] = {}
    for index, (_, result) in enumerate(steps):
        for sample in result:
            row = got.setdefault(Labels(sample.labels), [None] * len(steps))
            if row[index] is not None:
                return f"series {sample.labels} twice"
            row[index] = sample.value
    want: dict[Labels, list[Point]] = {}
    for labels, points in case.expected:
        row = (points + [None] * len(steps))[: len(steps)]
        if any(point is not None for point in row):
            want[labels] = row
    if set(want) != set(got):
        return f"expected {want}, got {got}"
    for labels, row in want.items():
        for expected, found in zip(row, got[labels], strict=True):
            if (expected is None) != (found is None):
                return f"{labels}: expected {row}, got {got[labels]}"
            if (
                isinstance(expected, float)
                and isinstance(found, float)
                and not alike(expected, found)
            ):
                return f"{labels}: expected {row}, got {got[labels]}"
    return ""


def alike(a: float, b: float) -> bool:
    """Equal as Prometheus's tests have it: one part in a million."""
    if isnan(a) or isnan(b):
        return isnan(a) and isnan(b)
    if a == b:
        return True
    if isinf(a) or isinf(b):
        return False
    total, difference = abs(a) + abs(b), abs(a - b)
    if a == 0 or b == 0 or total < 2.2250738585072014e-308:
        return difference < _TOLERANCE * 2.2250738585072014e-308
    return difference / min(total, 1.7976931348623157e308) < _TOLERANCE
