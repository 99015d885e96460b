"""What a compiled expression is made of.

Each part of an expression compiles to a `Node`: what kind of value it gives, and a closure that
gives it at a `Moment`. A vector is a list of (labels, value); a matrix a list of `Run`s. Compiling
checks everything that can be checked, so that an evaluation can fail only on what the samples are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.alerts.errors import EvalError
from agent.alerts.labels import NAME, Labels

if TYPE_CHECKING:
    from agent.alerts.promql.selectors import Selector
    from agent.alerts.series import SeriesStore

Vector = list[tuple[Labels, float]]

LOOKBACK = 300_000
"""How old, in milliseconds, the newest sample of an instant vector may be."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When an expression is evaluated, and over which samples; milliseconds since the epoch.

    `start` and `end` are those of the whole query, which `@ start()` and `@ end()` mean.
    """

    store: SeriesStore
    at: int
    start: int
    end: int


class Run(NamedTuple):
    """The samples of one series in a range, at least one."""

    labels: Labels
    times: Sequence[int]
    values: Sequence[float]


class Range(NamedTuple):
    """A matrix, and the range that it was taken from: (after, until], in milliseconds."""

    runs: list[Run]
    after: int
    until: int


@dataclass(frozen=True, slots=True)
class Node:
    """A compiled part: `kind` is scalar, vector, matrix or string, and `run` gives that.

    `one_name` says that all its series bear one metric name or none, so that dropping the name
    cannot make two of them alike. `reach` is how far before the moment it looks, in milliseconds.
    """

    kind: str
    run: Callable[[Moment], Any]
    one_name: bool = True
    reach: int = 0
    selector: Selector | None = None
    span: int = 0
    text: str = ""
    constant: float | None = field(default=None)


def nameless(vector: Vector, one_name: bool) -> Vector:
    """`vector` without metric names.

    Raises:
        EvalError: two of its series are the same then.
    """
    dropped = [(labels.nameless, value) for labels, value in vector]
    return dropped if one_name else distinct(dropped)


def distinct(vector: Vector) -> Vector:
    """`vector` itself.

    Raises:
        EvalError: two of its series have the same labels.
    """
    seen = set()
    for labels, _ in vector:
        if labels.key in seen:
            raise EvalError(
                f"vector cannot contain metrics with the same labelset: {labels.text() or '{}'}",
                f"tell them apart by more than {NAME}, or aggregate them",
            )
        seen.add(labels.key)
    return vector
