"""PromQL, evaluated here with Prometheus's own semantics.

`compile` turns text into an `Expression`, or refuses it; an `Expression` reads a `SeriesStore`.
Ranges are open on the left and lookback is five minutes, as in Prometheus 3; metric names are
dropped at once, as Prometheus does without its delayed-name-removal feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.alerts.errors import ExprError
from agent.alerts.promql.build import Builder, parse
from agent.alerts.promql.node import Moment, Node, distinct
from agent.units import Seconds

if TYPE_CHECKING:
    from agent.alerts.series import SeriesStore

__all__ = ["Expression", "Sample", "compile"]

_LONGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One element of a result; a scalar is one sample without labels."""

    labels: dict[str, str]
    value: float


class Expression:
    """A PromQL expression that can be evaluated here. Made by `compile`.

    Attributes:
        text: as it was written.
        names: the metric names that it reads; None when a selector leaves the name open.
        longest_range: how far back it looks, in seconds: ranges, offsets and lookback.
    """

    __slots__ = ("_node", "longest_range", "names", "text")

    def __init__(self, text: str, node: Node, names: frozenset[str] | None) -> None:
        self.text = text
        self.names = names
        self.longest_range = Seconds(node.reach / 1000)
        self._node = node

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def instant(self, store: SeriesStore, at: float) -> list[Sample]:
        """The result at `at`, in seconds since the epoch.

        Raises:
            EvalError: these samples make it an error (a match that is not unique, say).
        """
        when = round(at * 1000)
        return self._at(Moment(store, when, when, when))

    def over(
        self, store: SeriesStore, start: float, end: float, step: float
    ) -> Iterator[tuple[float, list[Sample]]]:
        """The results at `start`, and every `step` seconds until `end`, as a range query has them.

        Raises:
            EvalError: as `instant`.
        """
        first, last, gap = round(start * 1000), round(end * 1000), round(step * 1000)
        for when in range(first, last + 1, gap):
            yield when / 1000, self._at(Moment(store, when, first, last))

    def _at(self, moment: Moment) -> list[Sample]:
        found = self._node.run(moment)
        if self._node.kind == "scalar":
            return [Sample({}, found)]
        if not self._node.one_name:
            distinct(found)
        return [Sample(dict(labels.map), value) for labels, value in found]


def compile(text: str) -> Expression:  # noqa: A001 - the word that says it, as in `re.compile`
    """Parse and check `text`.

    Raises:
        ExprError: it is not PromQL, or something in it is not supported here; with the position
            where that is known.
    """
    if len(text) > _LONGEST:
        raise ExprError(f"longer than {_LONGEST} characters", "split it by recording rules")
    builder = Builder(text)
    node = builder.build(parse(text))
    if node.kind not in ("scalar", "vector"):
        raise ExprError(
            f"the result is a {'range vector' if node.kind == 'matrix' else node.kind}",
            "an alert needs an instant vector or a scalar",
        )
    return Expression(text, node, None if builder.any_name else frozenset(builder.names))
