"""Aggregations over the series of a vector, by or without labels."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isinf, isnan, nan, sqrt

from agent.alerts.errors import EvalError
from agent.alerts.labels import NAME, Labels, projection
from agent.alerts.promql.node import Moment, Node, Vector
from agent.alerts.promql.quantile import quantile
from agent.alerts.promql.sums import exact_sum, mean

Grouping = Callable[[Labels], Labels]


def grouping(by: bool, names: frozenset[str]) -> Grouping:
    """The labels that a group is known by."""
    chosen = projection(by, names if by else names | {NAME})
    return lambda labels: labels.project(chosen)


def _largest(values: list[float]) -> float:
    best = values[0]
    for value in values:
        if value > best or isnan(best):
            best = value
    return best


def _smallest(values: list[float]) -> float:
    best = values[0]
    for value in values:
        if value < best or isnan(best):
            best = value
    return best


def _variance(values: list[float]) -> float:
    first = values[0]
    average = first
    total = nan if isnan(first) or isinf(first) else 0.0
    count = 1.0
    for value in values[1:]:
        count += 1.0
        delta = value - average
        average += delta / count
        total += delta * (value - average)
    return total / count


def _deviation(values: list[float]) -> float:
    variance = _variance(values)
    return sqrt(variance) if variance >= 0 else nan


SIMPLE: dict[str, Callable[[list[float]], float]] = {
    "sum": exact_sum,
    "avg": mean,
    "min": _smallest,
    "max": _largest,
    "count": lambda values: float(len(values)),
    "group": lambda values: 1.0,
    "stddev": _deviation,
    "stdvar": _variance,
}


def simple(op: str, node: Node, group: Grouping) -> Node:
    """One value a group, made of its values alone."""
    reduce = SIMPLE[op]

    def run(moment: Moment) -> Vector:
        return [(labels, reduce(values)) for labels, values in _grouped(node, group, moment)]

    return Node("vector", run, False, node.reach)


def quantiles(q: Node, node: Node, group: Grouping) -> Node:
    """`quantile(q, …)`."""

    def run(moment: Moment) -> Vector:
        wanted = q.run(moment)
        found = _grouped(node, group, moment)
        return [(labels, quantile(wanted, values)) for labels, values in found]

    return Node("vector", run, False, max(q.reach, node.reach))


def _grouped(node: Node, group: Grouping, moment: Moment) -> list[tuple[Labels, list[float]]]:
    groups: dict[Labels, list[float]] = {}
    for labels, value in node.run(moment):
        key = group(labels)
        found = groups.get(key)
        if found is None:
            groups[key] = [value]
        else:
            found.append(value)
    return list(groups.items())


def ranked(op: str, k: Node, node: Node, group: Grouping) -> Node:
    """`topk` and `bottomk`: the series themselves, best first; NaN is the worst."""
    sign = -1.0 if op == "topk" else 1.0

    def order(pair: tuple[Labels, float]) -> tuple[bool, float]:
        value = pair[1]
        return (True, 0.0) if isnan(value) else (False, sign * value)

    def run(moment: Moment) -> Vector:
        wanted = k.run(moment)
        if isnan(wanted) or not -(2.0**63) <= wanted < 2.0**63:
            raise EvalError(f"Scalar value {wanted} is not convertible to int64")
        groups: dict[Labels, Vector] = {}
        for pair in node.run(moment):
            groups.setdefault(group(pair[0]), []).append(pair)
        if wanted < 1:
            return []
        best: Vector = []
        for members in groups.values():
            best += sorted(members, key=order)[: int(wanted)]
        return best

    return Node("vector", run, node.one_name, max(k.reach, node.reach))


def count_values(label: str, node: Node, by: bool, names: frozenset[str]) -> Node:
    """How many series have each value; the value is told in `label`."""
    kept = names - {label} if by else names | {label}
    group = grouping(by, kept)

    def run(moment: Moment) -> Vector:
        counts: dict[Labels, float] = {}
        for labels, value in node.run(moment):
            key = group(labels).replaced(label, plain(value))
            counts[key] = counts.get(key, 0.0) + 1.0
        return list(counts.items())

    return Node("vector", run, False, node.reach)


def plain(value: float) -> str:
    """A number as Go's `strconv.FormatFloat(v, 'f', -1, 64)` writes it."""
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "+Inf" if value == inf else "-Inf"
    text = repr(value)
    if "e" in text:
        from decimal import Decimal

        text = format(Decimal(text), "f")
    return text.removesuffix(".0")
