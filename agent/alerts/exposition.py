"""The careful parser of one exposition line: text format 0.0.4 and OpenMetrics.

A scrape's lines are mostly last scrape's lines with other numbers, and `series.py` recognises those
by their text alone; what it has not seen before comes here. Nothing is guessed: a line that is
not in the format is an `ExpositionError` with its number, and nothing of that scrape is kept.
Native histograms exist only in the protobuf format, which the agent never asks for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.alerts.errors import ExpositionError
from agent.alerts.labels import NAME

LONGEST_LINE = 64 * 1024
_REMEDY = "fix what the target exposes; `promtool check metrics` shows the same"

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_SPACE = re.compile(r"[ \t]*")
_FLOAT = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|infinity|nan))"
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_UNESCAPED = {"n": "\n", "\\": "\\", '"': '"'}


@dataclass(frozen=True, slots=True)
class Line:
    """One sample line: its labels (the name is `__name__`), value, and own time if it has one.

    `series` is the exact text of name and labels, by which the next scrape's line is recognised;
    `at` is in milliseconds since the epoch.
    """

    series: str
    labels: dict[str, str]
    value: float
    at: int | None


def parse_line(text: str, number: int, openmetrics: bool) -> Line | None:
    """Parse line `number` (from 1) of an exposition; None for comments and blank lines.

    Raises:
        ExpositionError: it is not in the format.
    """
    if len(text) > LONGEST_LINE:
        raise _wrong(number, f"longer than {LONGEST_LINE} characters")
    start = _space(text, 0)
    if start == len(text) or text[start] == "#":
        return None
    labels, end = _series(text, start, number)
    value, at = _numbers(text, end, number, openmetrics)
    return Line(text[start:end], labels, value, at)


def parse_float(text: str) -> float:
    """A sample's value as Prometheus reads it.

    Raises:
        ValueError: it is not a number (`1_000` and hexadecimals are not).
    """
    if _FLOAT.fullmatch(text) is None:
        raise ValueError(text)
    return float(text)


def _series(text: str, start: int, number: int) -> tuple[dict[str, str], int]:
    labels: dict[str, str] = {}
    at = start
    name = _METRIC.match(text, at)
    if name is not None:
        labels[NAME] = name.group()
        at = name.end()
    brace = _space(text, at)
    if brace < len(text) and text[brace] == "{":
        at = _label_pairs(text, brace + 1, labels, number)
    if NAME not in labels:
        raise _wrong(number, "no metric name")
    return labels, at


def _label_pairs(text: str, at: int, labels: dict[str, str], number: int) -> int:
    """Read `name="value"` pairs up to the closing brace; a lone quoted text is the metric's name,
    as UTF-8 names are written."""
    while True:
        at = _space(text, at)
        if text[at : at + 1] == "}":
            return at + 1
        quoted = _QUOTED.match(text, at)
        bare = None if quoted else _LABEL.match(text, at)
        if quoted is not None:
            name, at = _unescape(quoted.group(1), number), quoted.end()
        elif bare is not None:
            name, at = bare.group(), bare.end()
        else:
            raise _wrong(number, f"a label name was expected in column {at + 1}")
        at = _space(text, at)
        if text[at : at + 1] == "=":
            value = _QUOTED.match(text, _space(text, at + 1))
            if value is None:
                raise _wrong(number, f"label {name}: a quoted value was expected")
            _add(labels, name, _unescape(value.group(1), number), number)
            at = value.end()
        elif quoted is not None:
            _add(labels, NAME, name, number)
        else:
            raise _wrong(number, f"label {name}: '=' was expected")
        at = _space(text, at)
        if text[at : at + 1] == ",":
            at += 1
        elif text[at : at + 1] != "}":
            raise _wrong(number, f"',' or '}}' was expected in column {at + 1}")


def _add(labels: dict[str, str], name: str, value: str, number: int) -> None:
    if name in labels:
        raise _wrong(number, f"label {name} is given twice")
    labels[name] = value


def _numbers(text: str, at: int, number: int, openmetrics: bool) -> tuple[float, int | None]:
    if text[at : at + 1] not in (" ", "\t"):
        raise _wrong(number, "a space and a value were expected after the series")
    rest = text[at:]
    if openmetrics:  # an exemplar follows ` # `: it says nothing about the value
        rest = rest.split(" # ", 1)[0]
    fields = rest.split()
    if not 1 <= len(fields) <= 2:
        raise _wrong(number, "a value, and perhaps a timestamp, were expected after the series")
    try:
        value = parse_float(fields[0])
    except ValueError:
        raise _wrong(number, f"{fields[0][:40]!r} is not a number") from None
    if len(fields) == 1:
        return value, None
    return value, _timestamp(fields[1], number, openmetrics)


def _timestamp(text: str, number: int, openmetrics: bool) -> int:
    try:
        return round(parse_float(text) * 1000) if openmetrics else int(text)
    except (ValueError, OverflowError):
        raise _wrong(number, f"{text[:40]!r} is not a timestamp") from None


def _unescape(text: str, number: int) -> str:
    if "\\" not in text:
        return text

    def one(match: re.Match[str]) -> str:
        try:
            return _UNESCAPED[match.group(1)]
        except KeyError:
            raise _wrong(number, f"{match.group()!r} is not an escape") from None

    return _ESCAPE.sub(one, text)


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _wrong(number: int, what: str) -> ExpositionError:
    return ExpositionError(f"line {number} of the exposition: {what}", _REMEDY)
