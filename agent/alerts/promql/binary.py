"""Operators between two values: arithmetic, comparison, sets, and the matching of vectors.

Floats behave as IEEE 754 has it (a division by zero is an infinity, never an exception).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isnan, nan

from agent.alerts.errors import EvalError
from agent.alerts.labels import NAME, Labels, projection
from agent.alerts.promql.node import Moment, Node, Vector, nameless

Operator = Callable[[float, float], float]
Compare = Callable[[float, float], bool]


def _divide(a: float, b: float) -> float:
    try:
        return a / b
    except ZeroDivisionError:
        if a == 0 or isnan(a):
            return nan
        return math.copysign(inf, a) * math.copysign(1.0, b)


def _modulo(a: float, b: float) -> float:
    try:
        return math.fmod(a, b)
    except ValueError:
        return nan


def _power(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        odd = b == math.floor(b) and math.fmod(b, 2) != 0
        return -inf if a < 0 and odd else inf
    except ValueError:
        if a != 0:
            return nan
        odd = b == math.floor(b) and math.fmod(b, 2) != 0
        return math.copysign(inf, a) if odd else inf


ARITHMETIC: dict[str, Operator] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "%": _modulo,
    "^": _power,
    "atan2": math.atan2,
}
COMPARISON: dict[str, Compare] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
_MIRRORED = {"==": "==", "!=": "!=", ">": "<", "<": ">", ">=": "<=", "<=": ">="}
SETS = frozenset({"and", "or", "unless"})


@dataclass(frozen=True, slots=True)
class Matching:
    """How the series of two vectors find each other.

    `on` says whether `labels` are those compared or those left out; `card` is one-to-one,
    many-to-one or one-to-many; `include` are labels that the one side lends.
    """

    on: bool = False
    labels: frozenset[str] = frozenset()
    card: str = "one-to-one"
    include: tuple[str, ...] = ()

    def signature(self) -> Callable[[Labels], Labels]:
        """What is compared of a label set."""
        if not self.on and not self.labels:
            return lambda labels: labels.nameless
        chosen = projection(self.on, self.labels if self.on else self.labels | {NAME})
        return lambda labels: labels.project(chosen)


def scalars(op: str, left: Node, right: Node) -> Node:
    """Both sides are scalars (a comparison has its `bool`)."""
    a, b = left.run, right.run
    if op in ARITHMETIC:
        arithmetic = ARITHMETIC[op]
        return Node("scalar", lambda m: arithmetic(a(m), b(m)), True, _reach(left, right))
    compare = COMPARISON[op]
    return Node("scalar", lambda m: float(compare(a(m), b(m))), True, _reach(left, right))


def with_scalar(op: str, left: Node, right: Node, as_bool: bool) -> Node:
    """One side is a vector. A comparison filters it, and its value is what remains."""
    swapped = left.kind == "scalar"
    vector, scalar = (right, left) if swapped else (left, right)
    run = (
        _arithmetic_with(ARITHMETIC[op], vector, scalar, swapped)
        if op in ARITHMETIC
        else _compared_with(COMPARISON[_MIRRORED[op] if swapped else op], vector, scalar, as_bool)
    )
    return Node("vector", run, vector.one_name, _reach(left, right))


def _arithmetic_with(
    operate: Operator, vector: Node, scalar: Node, swapped: bool
) -> Callable[[Moment], Vector]:
    def run(moment: Moment) -> Vector:
        other = scalar.run(moment)
        if swapped:
            out = [(labels, operate(other, value)) for labels, value in vector.run(moment)]
        else:
            out = [(labels, operate(value, other)) for labels, value in vector.run(moment)]
        return nameless(out, vector.one_name)

    return run


def _compared_with(
    compare: Compare, vector: Node, scalar: Node, as_bool: bool
) -> Callable[[Moment], Vector]:
    def run(moment: Moment) -> Vector:
        other = scalar.run(moment)
        found: Vector = vector.run(moment)
        if as_bool:
            out = [(labels, float(compare(value, other))) for labels, value in found]
            return nameless(out, vector.one_name)
        return [pair for pair in found if compare(pair[1], other)]

    return run


def sets(op: str, left: Node, right: Node, matching: Matching) -> Node:
    """`and`, `or`, `unless`: what is kept of either side; values are not looked at."""
    signature = matching.signature()

    def both(moment: Moment) -> Vector:
        found: Vector = left.run(moment)
        if not found:
            return found
        there = {signature(labels) for labels, _ in right.run(moment)}
        return [pair for pair in found if signature(pair[0]) in there]

    def either(moment: Moment) -> Vector:
        found: Vector = left.run(moment)
        more: Vector = right.run(moment)
        if not found:
            return more
        there = {signature(labels) for labels, _ in found}
        return found + [pair for pair in more if signature(pair[0]) not in there]

    def unless(moment: Moment) -> Vector:
        found: Vector = left.run(moment)
        if not found:
            return found
        there = {signature(labels) for labels, _ in right.run(moment)}
        return [pair for pair in found if signature(pair[0]) not in there]

    run = {"and": both, "or": either, "unless": unless}[op]
    one_name = left.one_name and (op != "or")
    return Node("vector", run, one_name, _reach(left, right))


def vectors(op: str, left: Node, right: Node, matching: Matching, as_bool: bool) -> Node:
    """Two vectors, their series matched."""
    join = _Join(op, matching, as_bool)

    def run(moment: Moment) -> Vector:
        ours, theirs = left.run(moment), right.run(moment)
        return join.run(ours, theirs) if ours and theirs else []

    return Node("vector", run, left.one_name and right.one_name, _reach(left, right))


class _Join:
    """One-to-one, or many-to-one with the many side first (and swapped back for the values)."""

    def __init__(self, op: str, matching: Matching, as_bool: bool) -> None:
        self._matching = matching
        self._signature = matching.signature()
        self._as_bool = as_bool
        self._swapped = matching.card == "one-to-many"
        self._arithmetic = ARITHMETIC.get(op)
        self._compare = COMPARISON.get(op)
        self._drop_name = op in ARITHMETIC or as_bool

    def run(self, left: Vector, right: Vector) -> Vector:
        if self._swapped:
            left, right = right, left
        ones = self._one_side(right)
        one_to_one = self._matching.card == "one-to-one"
        out: Vector = []
        used: set[object] = set()
        for labels, value in left:
            signature = self._signature(labels)
            match = ones.get(signature)
            if match is None:
                continue
            other_labels, other = match
            result = self._value(other, value) if self._swapped else self._value(value, other)
            metric = self._metric(labels, other_labels)
            mark: object = signature if one_to_one else (signature, metric)
            if mark in used:
                raise EvalError(_MANY_ONE if one_to_one else _MANY_GROUP, _ADVICE)
            used.add(mark)
            if result is not None:
                out.append((metric, result))
        return out

    def _one_side(self, right: Vector) -> dict[Labels, tuple[Labels, float]]:
        ones: dict[Labels, tuple[Labels, float]] = {}
        for labels, value in right:
            signature = self._signature(labels)
            if signature in ones:
                first, second = sorted((labels.text(), ones[signature][0].text()))
                side = "left" if self._swapped else "right"
                raise EvalError(
                    f"found duplicate series for the match group {signature.text() or '{}'} on the "
                    f"{side} hand-side of the operation: [{first}, {second}];many-to-many matching "
                    "not allowed: matching labels must be unique on one side",
                    _ADVICE,
                )
            ones[signature] = (labels, value)
        return ones

    def _value(self, a: float, b: float) -> float | None:
        if self._arithmetic is not None:
            return self._arithmetic(a, b)
        assert self._compare is not None
        kept = self._compare(a, b)
        if self._as_bool:
            return float(kept)
        return a if kept else None

    def _metric(self, labels: Labels, other: Labels) -> Labels:
        matching = self._matching
        found = labels.nameless if self._drop_name else labels
        if matching.card == "one-to-one":
            if not matching.on and not matching.labels:
                return found
            return found.project(projection(matching.on, matching.labels))
        for name in matching.include:
            found = found.replaced(name, other.get(name))
        return found


_MANY_ONE = (
    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
)
_MANY_GROUP = "multiple matches for labels: grouping labels must ensure unique matches"
_ADVICE = "say which labels match: on (…), ignoring (…), group_left or group_right"


def _reach(*nodes: Node) -> int:
    return max(node.reach for node in nodes)
