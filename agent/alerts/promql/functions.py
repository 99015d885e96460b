"""Functions of numbers and instant vectors: mathematics, trigonometry, the calendar, histograms.

Each gives what Go's `math` gives where Python would raise: a logarithm of zero is an infinity, a
root of a negative number is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import inf, isinf, isnan, nan

from agent.alerts.exposition import parse_float
from agent.alerts.labels import BUCKET, EMPTY, Labels, projection
from agent.alerts.promql.node import Moment, Node, Vector, distinct, nameless
from agent.alerts.promql.quantile import Buckets, bucket_fraction, bucket_quantile
from agent.alerts.promql.selectors import absent_labels

Number = Callable[[float], float]


def _total(function: Number, overflow: Number | None = None) -> Number:
    """`function` made total: NaN outside its domain, `overflow` where the result is too large."""

    def run(value: float) -> float:
        try:
            return function(value)
        except ValueError:
            return nan
        except OverflowError:
            return overflow(value) if overflow else inf

    return run


def _logarithm(function: Number) -> Number:
    return lambda v: -inf if v == 0 else function(v) if v > 0 else nan


def _rounded(function: Callable[[float], int]) -> Number:
    """`ceil` or `floor`, with infinities, NaN and negative zero as they are."""
    return lambda v: v if isinf(v) or isnan(v) else math.copysign(float(function(v)), v)


def _floor(value: float) -> float:
    return value if isinf(value) or isnan(value) else float(math.floor(value))


def _sign(value: float) -> float:
    return 1.0 if value > 0 else -1.0 if value < 0 else value


def _atanh(value: float) -> float:
    return math.copysign(inf, value) if abs(value) == 1 else _total(math.atanh)(value)


def _signed_inf(value: float) -> float:
    return math.copysign(inf, value)


MATH: dict[str, Number] = {
    "abs": abs,
    "ceil": _rounded(math.ceil),
    "floor": _rounded(math.floor),
    "exp": _total(math.exp),
    "sqrt": _total(math.sqrt),
    "ln": _logarithm(math.log),
    "log2": _logarithm(math.log2),
    "log10": _logarithm(math.log10),
    "sgn": _sign,
    "sin": _total(math.sin),
    "cos": _total(math.cos),
    "tan": _total(math.tan),
    "asin": _total(math.asin),
    "acos": _total(math.acos),
    "atan": _total(math.atan),
    "sinh": _total(math.sinh, _signed_inf),
    "cosh": _total(math.cosh),
    "tanh": _total(math.tanh),
    "asinh": _total(math.asinh),
    "acosh": _total(math.acosh),
    "atanh": _atanh,
    "rad": lambda v: v * math.pi / 180,
    "deg": lambda v: v * 180 / math.pi,
}


def mapped(node: Node, function: Number) -> Node:
    """`function` of each value."""

    def run(moment: Moment) -> Vector:
        out = [(labels, function(value)) for labels, value in node.run(moment)]
        return nameless(out, node.one_name)

    return Node("vector", run, node.one_name, node.reach)


def rounded(node: Node, nearest: Node | None) -> Node:
    """`round(v, nearest)`: ties upwards."""

    def run(moment: Moment) -> Vector:
        step = nearest.run(moment) if nearest else 1.0
        inverse = 1.0 / step if step else math.copysign(inf, step)
        out = [(ls, _floor(v * inverse + 0.5) / inverse) for ls, v in node.run(moment)]
        return nameless(out, node.one_name)

    return Node("vector", run, node.one_name, _reach(node, nearest))


def clamped(node: Node, low: Node | None, high: Node | None) -> Node:
    """`clamp`, `clamp_min`, `clamp_max`."""

    def run(moment: Moment) -> Vector:
        least = low.run(moment) if low else -inf
        most = high.run(moment) if high else inf
        if most < least:
            return []
        if isnan(least) or isnan(most):
            out = [(labels, nan) for labels, _ in node.run(moment)]
        else:
            out = [
                (labels, value if isnan(value) else max(least, min(most, value)))
                for labels, value in node.run(moment)
            ]
        return nameless(out, node.one_name)

    return Node("vector", run, node.one_name, _reach(node, low, high))


def absent(node: Node) -> Node:
    """One sample of 1 when the vector is empty, with the labels that its matchers tell."""
    labels = absent_labels(node.selector)

    def run(moment: Moment) -> Vector:
        return [] if node.run(moment) else [(labels, 1.0)]

    return Node("vector", run, True, node.reach)


def scalar(node: Node) -> Node:
    """The value of a vector of one; NaN otherwise."""

    def run(moment: Moment) -> float:
        found = node.run(moment)
        return float(found[0][1]) if len(found) == 1 else nan

    return Node("scalar", run, True, node.reach)


def vector(node: Node) -> Node:
    """A scalar as a vector of one without labels."""
    return Node("vector", lambda moment: [(EMPTY, node.run(moment))], True, node.reach)


def timestamps(node: Node, times: Callable[[Moment], Vector] | None) -> Node:
    """`timestamp(v)`: of the samples of a plain selector; of the evaluation for anything else."""

    def run(moment: Moment) -> Vector:
        if times is not None:
            out = times(moment)
        else:
            now = moment.at / 1000
            out = [(labels, now) for labels, _ in node.run(moment)]
        return nameless(out, node.one_name)

    return Node("vector", run, node.one_name, node.reach)


def ordered(node: Node, descending: bool) -> Node:
    """`sort` and `sort_desc`; NaN comes last in both."""

    def order(pair: tuple[Labels, float]) -> tuple[bool, float]:
        value = pair[1]
        return (True, 0.0) if isnan(value) else (False, -value if descending else value)

    return Node("vector", lambda m: sorted(node.run(m), key=order), node.one_name, node.reach)


def negated(node: Node) -> Node:
    """The unary minus."""
    if node.kind == "scalar":
        constant = None if node.constant is None else -node.constant
        return Node("scalar", lambda m: -node.run(m), True, node.reach, constant=constant)
    return mapped(node, lambda value: -value)


def histogram_quantile(q: Node, node: Node) -> Node:
    """The `q`-quantile of each classic histogram in `node`."""

    def run(moment: Moment) -> Vector:
        wanted = q.run(moment)
        found = _histograms(node.run(moment))
        out = [(labels, bucket_quantile(wanted, buckets)) for labels, buckets in found]
        return nameless(out, node.one_name)

    return Node("vector", run, node.one_name, _reach(q, node))


def histogram_fraction(low: Node, high: Node, node: Node) -> Node:
    """How much of each classic histogram is between `low` and `high`."""

    def run(moment: Moment) -> Vector:
        least, most = low.run(moment), high.run(moment)
        found = _histograms(node.run(moment))
        out = [(labels, bucket_fraction(least, most, buckets)) for labels, buckets in found]
        return nameless(out, node.one_name)

    return Node("vector", run, node.one_name, _reach(low, high, node))


_BOUNDLESS = projection(False, frozenset({BUCKET}))


def _histograms(found: Vector) -> list[tuple[Labels, Buckets]]:
    """The classic histograms in a vector of buckets. What has no bound is not a bucket."""
    groups: dict[Labels, Buckets] = {}
    for labels, value in found:
        bound = _bound(labels.get(BUCKET))
        if bound is None:
            continue
        key = labels.project(_BOUNDLESS)
        buckets = groups.get(key)
        if buckets is None:
            groups[key] = [(bound, value)]
        else:
            buckets.append((bound, value))
    return list(groups.items())


def _bound(text: str) -> float | None:
    bound = _BOUNDS.get(text)
    if bound is None and text:
        try:
            bound = parse_float(text)
        except ValueError:
            return None
        if len(_BOUNDS) > 10_000:
            _BOUNDS.clear()
        _BOUNDS[text] = bound
    return bound


_BOUNDS: dict[str, float] = {}


def calendar(node: Node | None, part: Callable[[int], float]) -> Node:
    """A part of the date, in UTC, of each value (seconds since the epoch) or of now."""
    if node is None:
        return Node("vector", lambda m: [(EMPTY, part(m.at // 1000))])
    return mapped(node, lambda v: nan if isnan(v) or isinf(v) else part(math.trunc(v)))


def _civil(seconds: int) -> tuple[int, int, int]:
    """Year, month and day of a time, for any year, in the proleptic Gregorian calendar."""
    days = seconds // 86400 + 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


_MONTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _days_in_month(seconds: int) -> float:
    year, month, _ = _civil(seconds)
    return float(_MONTHS[month - 1] + (month == 2 and _leap(year)))


def _day_of_year(seconds: int) -> float:
    year, month, day = _civil(seconds)
    return float(sum(_MONTHS[: month - 1]) + (month > 2 and _leap(year)) + day)


CALENDAR: dict[str, Callable[[int], float]] = {
    "days_in_month": _days_in_month,
    "day_of_month": lambda s: float(_civil(s)[2]),
    "day_of_week": lambda s: float((s // 86400 + 4) % 7),
    "day_of_year": _day_of_year,
    "hour": lambda s: float(s // 3600 % 24),
    "minute": lambda s: float(s // 60 % 60),
    "month": lambda s: float(_civil(s)[1]),
    "year": lambda s: float(_civil(s)[0]),
}


def relabelled(node: Node, change: Callable[[Labels], Labels]) -> Node:
    """Each series under other labels."""

    def run(moment: Moment) -> Vector:
        return distinct([(change(labels), value) for labels, value in node.run(moment)])

    return Node("vector", run, False, node.reach)


def _reach(*nodes: Node | None) -> int:
    return max(node.reach for node in nodes if node is not None)
