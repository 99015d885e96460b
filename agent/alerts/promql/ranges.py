"""Functions of ranges: rates, changes, regressions, and what is taken over time.

`rate`, `increase` and `delta` over a plain selector never copy a window: they look at its first and
last sample and at the resets between them, which a segment remembers. The arithmetic, including
extrapolation to the edges of the range, is Prometheus's operation by operation.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isinf, isnan, nan, sqrt

from agent.alerts.errors import EvalError
from agent.alerts.promql.node import Moment, Node, Range, Run, Vector, distinct, nameless
from agent.alerts.promql.quantile import quantile
from agent.alerts.promql.selectors import Selector, Shift, absent_labels
from agent.alerts.promql.sums import add, exact_sum, mean

Reduce = Callable[[Run, Range], float | None]


def over(node: Node, reduce: Reduce, keeps_name: bool = False) -> Node:
    """`reduce` applied to each series of the matrix `node`."""

    def run(moment: Moment) -> Vector:
        taken = node.run(moment)
        out: Vector = []
        for series in taken.runs:
            value = reduce(series, taken)
            if value is not None:
                out.append((series.labels, value))
        return out if keeps_name else nameless(out, node.one_name)

    return Node("vector", run, node.one_name, node.reach)


def rate_of(node: Node, shift: Shift, counter: bool, per_second: bool) -> Node:
    """`rate`, `increase` (`counter`) or `delta` of a plain range selector."""
    selector = node.selector
    assert selector is not None
    span = node.span

    def run(moment: Moment) -> Vector:
        until = shift(moment)
        out = _rates(selector, moment, (until - span, until), counter, per_second)
        return out if node.one_name else distinct(out)

    return Node("vector", run, node.one_name, node.reach)


def _rates(
    selector: Selector, moment: Moment, edges: tuple[int, int], counter: bool, per_second: bool
) -> Vector:
    """The extrapolated change of every series, without names.

    Series of one scrape share their columns, so what only depends on times is worked out once.
    """
    after, until = edges
    seconds = (until - after) / 1000
    out: Vector = []
    axis = None
    i = j = 0
    known = (-1, -1)
    shape = (0.0, 0.0, 0.0)
    for series in selector.series(moment):
        segment = series.segments[-1]
        if segment.axis is not axis:
            axis = segment.axis
            i, j = axis.window(after, until)
            known = (-1, -1)
        start, values = segment.start, segment.values
        if len(series.segments) > 1 and (start > i or i == axis.base):
            run = Run(series.labels, *series.between(after, until))
            value = extrapolated(run, Range([], after, until), counter, per_second)
            if value is not None:
                out.append((series.nameless, value))
            continue
        end = start + len(values)
        first, last = (max(start, i)), (min(end, j)) - 1
        if last <= first:
            continue
        if (first, last) != known:
            known = (first, last)
            times, base = axis.times, axis.base
            shape = _shape(times[first - base], times[last - base], last - first, edges)
        sampled, to_start, to_end = shape
        low = values[first - start]
        change = values[last - start] - low
        if counter:
            if segment.scanned <= last or segment.falls:
                for column in segment.resets(first, last):
                    change += values[column - 1 - start]
            if change > 0 and low >= 0:
                to_zero = sampled * (low / change)
                if to_zero < to_start:
                    to_start = to_zero
        factor = (sampled + to_start + to_end) / sampled
        out.append((series.nameless, change * (factor / seconds if per_second else factor)))
    return out


def extrapolated(run: Run, taken: Range, counter: bool, per_second: bool) -> float | None:
    """The same of a run of samples, wherever it comes from."""
    times, values = run.times, run.values
    if len(values) < 2:
        return None
    edges = (taken.after, taken.until)
    sampled, to_start, to_end = _shape(times[0], times[-1], len(values) - 1, edges)
    low = before = values[0]
    change = values[-1] - low
    if counter:
        for value in values:
            if value < before:
                change += before
            before = value
        if change > 0 and low >= 0:
            to_start = min(to_start, sampled * (low / change))
    factor = (sampled + to_start + to_end) / sampled
    return change * (factor / ((taken.until - taken.after) / 1000) if per_second else factor)


def _shape(first: int, last: int, steps: int, edges: tuple[int, int]) -> tuple[float, float, float]:
    """How long the samples cover, and how far the change is extrapolated to either side of them:
    to an edge of the range if it is near, else half a step. In seconds."""
    after, until = edges
    sampled = (last - first) / 1000
    step = sampled / steps
    near = step * 1.1
    to_start, to_end = (first - after) / 1000, (until - last) / 1000
    return (
        sampled,
        step / 2 if to_start >= near else to_start,
        step / 2 if to_end >= near else to_end,
    )


def _two_last(per_second: bool) -> Reduce:
    """`irate` and `idelta`: from the last two samples alone."""

    def reduce(run: Run, taken: Range) -> float | None:
        if len(run.values) < 2:
            return None
        before, value = run.values[-2], run.values[-1]
        if not per_second:
            return value - before
        change = value if value < before else value - before
        return change / ((run.times[-1] - run.times[-2]) / 1000)

    return reduce


def _resets(run: Run, taken: Range) -> float:
    return float(sum(b < a for a, b in zip(run.values, run.values[1:], strict=False)))


def _changes(run: Run, taken: Range) -> float:
    pairs = zip(run.values, run.values[1:], strict=False)
    return float(sum(a != b and not (isnan(a) and isnan(b)) for a, b in pairs))


def _regression(run: Run, intercept_at: int) -> tuple[float, float]:
    """Slope and intercept at `intercept_at` of the least-squares line."""
    values = run.values
    if all(value == values[0] for value in values):
        return (nan, nan) if isinf(values[0]) else (0.0, values[0])
    n = 0.0
    x_sum = x_lost = y_sum = y_lost = xy_sum = xy_lost = xx_sum = xx_lost = 0.0
    for at, value in zip(run.times, values, strict=True):
        n += 1.0
        x = (at - intercept_at) / 1e3
        x_sum, x_lost = add(x, x_sum, x_lost)
        y_sum, y_lost = add(value, y_sum, y_lost)
        xy_sum, xy_lost = add(x * value, xy_sum, xy_lost)
        xx_sum, xx_lost = add(x * x, xx_sum, xx_lost)
    x_sum += x_lost
    y_sum += y_lost
    covariance = (xy_sum + xy_lost) - x_sum * y_sum / n
    variance = (xx_sum + xx_lost) - x_sum * x_sum / n
    slope = covariance / variance if variance else nan
    return slope, y_sum / n - slope * x_sum / n


def _deriv(run: Run, taken: Range) -> float | None:
    return None if len(run.values) < 2 else _regression(run, run.times[0])[0]


def predict_linear(node: Node, ahead: Node) -> Node:
    """Where each series will be `ahead` seconds from now, by its least-squares line."""

    def run(moment: Moment) -> Vector:
        duration = ahead.run(moment)
        out: Vector = []
        for series in node.run(moment).runs:
            if len(series.values) >= 2:
                slope, intercept = _regression(series, moment.at)
                out.append((series.labels, slope * duration + intercept))
        return nameless(out, node.one_name)

    return Node("vector", run, node.one_name, max(node.reach, ahead.reach))


def quantile_over_time(q: Node, node: Node) -> Node:
    """The `q`-quantile of each series' samples."""

    def run(moment: Moment) -> Vector:
        wanted = q.run(moment)
        out = [(r.labels, quantile(wanted, list(r.values))) for r in node.run(moment).runs]
        return nameless(out, node.one_name)

    return Node("vector", run, node.one_name, max(node.reach, q.reach))


def smoothed(node: Node, factor: Node, trend: Node) -> Node:
    """`double_exponential_smoothing` (`holt_winters` before 3.0)."""

    def run(moment: Moment) -> Vector:
        sf, tf = factor.run(moment), trend.run(moment)
        for what, value in (("smoothing", sf), ("trend", tf)):
            if not 0 < value < 1:
                raise EvalError(
                    f"invalid {what} factor. Expected: 0 < {what[0]}f < 1, got: {value}"
                )
        out: Vector = []
        for series in node.run(moment).runs:
            if len(series.values) >= 2:
                out.append((series.labels, _smooth(series, sf, tf)))
        return nameless(out, node.one_name)

    return Node("vector", run, node.one_name, node.reach)


def _smooth(run: Run, sf: float, tf: float) -> float:
    values = run.values
    level, slope, previous = values[0], values[1] - values[0], 0.0
    for i in range(1, len(values)):
        if i > 1:
            slope = tf * (level - previous) + (1 - tf) * slope
        previous, level = level, sf * values[i] + (1 - sf) * (level + slope)
    return level


def absent_over_time(node: Node) -> Node:
    """One sample of 1 when the range is empty."""
    labels = absent_labels(node.selector)

    def run(moment: Moment) -> Vector:
        return [] if node.run(moment).runs else [(labels, 1.0)]

    return Node("vector", run, True, node.reach)


def _extreme(above: bool) -> Reduce:
    def reduce(run: Run, taken: Range) -> float:
        best = run.values[0]
        for value in run.values:
            if isnan(best) or (value > best if above else value < best):
                best = value
        return best

    return reduce


def _variance(run: Run, taken: Range) -> float:
    count = average = average_lost = total = total_lost = 0.0
    for value in run.values:
        count += 1.0
        delta = value - (average + average_lost)
        average, average_lost = add(delta / count, average, average_lost)
        total, total_lost = add(delta * (value - (average + average_lost)), total, total_lost)
    return (total + total_lost) / count


def _deviation(run: Run, taken: Range) -> float:
    return sqrt(max(_variance(run, taken), 0.0)) if not isnan(_variance(run, taken)) else nan


def _rate_reduce(counter: bool, per_second: bool) -> Reduce:
    return lambda run, taken: extrapolated(run, taken, counter, per_second)


RATES = {"rate": (True, True), "increase": (True, False), "delta": (False, False)}
"""Functions that extrapolate: (of a counter, per second)."""

REDUCERS: dict[str, Reduce] = {
    **{name: _rate_reduce(*how) for name, how in RATES.items()},
    "irate": _two_last(per_second=True),
    "idelta": _two_last(per_second=False),
    "resets": _resets,
    "changes": _changes,
    "deriv": _deriv,
    "avg_over_time": lambda run, taken: mean(run.values),
    "min_over_time": _extreme(above=False),
    "max_over_time": _extreme(above=True),
    "sum_over_time": lambda run, taken: exact_sum(run.values),
    "count_over_time": lambda run, taken: float(len(run.values)),
    "stddev_over_time": _deviation,
    "stdvar_over_time": _variance,
    "last_over_time": lambda run, taken: run.values[-1],
    "present_over_time": lambda run, taken: 1.0,
}
"""Functions of one range: what they make of each series."""

KEEP_NAME = frozenset({"last_over_time"})
