"""Which functions exist, and how each is built from its arguments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from agent.alerts.errors import ExprError
from agent.alerts.promql import functions as f
from agent.alerts.promql import ranges as r
from agent.alerts.promql.node import Moment, Node
from agent.alerts.promql.relabel import label_join, label_replace
from agent.alerts.promql.selectors import instant_times

if TYPE_CHECKING:
    from agent.alerts.promql.build import Builder

_NATIVE = frozenset({
    "histogram_avg", "histogram_count", "histogram_sum", "histogram_stddev", "histogram_stdvar",
})  # fmt: skip


def build_call(builder: Builder, tree: Any) -> Node:
    """The node of a function call.

    Raises:
        ExprError: the function is not supported; an argument cannot be used.
    """
    name: str = tree.func.name
    args = list(tree.args)
    if name in r.RATES and type(args[0]).__name__ == "MatrixSelector":
        node = builder.build(args[0])
        return r.rate_of(node, builder.shift(args[0].vector_selector), *r.RATES[name])
    if name == "timestamp":
        return _timestamp(builder, args[0])
    nodes = [builder.build(argument) for argument in args]
    if name in r.REDUCERS:
        return r.over(nodes[0], r.REDUCERS[name], name in r.KEEP_NAME)
    if name in f.MATH:
        return f.mapped(nodes[0], f.MATH[name])
    if name in f.CALENDAR:
        return f.calendar(nodes[0] if nodes else None, f.CALENDAR[name])
    made = _other(name, nodes)
    if made is not None:
        return made
    why = "works on native histograms only" if name in _NATIVE else "is experimental in Prometheus"
    raise builder.refuse(f"function {name} is not supported: it {why}", name)


def _timestamp(builder: Builder, tree: Any) -> Node:
    while type(tree).__name__ == "ParenExpr":
        tree = tree.expr
    node = builder.build(tree)
    times = None
    if type(tree).__name__ == "VectorSelector":
        assert node.selector is not None
        times = instant_times(node.selector, builder.shift(tree))
    return f.timestamps(node, times)


def _other(name: str, n: list[Node]) -> Node | None:  # noqa: C901 - one case a function
    match name:
        case "time":
            return Node("scalar", _time)
        case "pi":
            return Node("scalar", _pi, constant=math.pi)
        case "scalar":
            return f.scalar(n[0])
        case "vector":
            return f.vector(n[0])
        case "absent":
            return f.absent(n[0])
        case "absent_over_time":
            return r.absent_over_time(n[0])
        case "round":
            return f.rounded(n[0], n[1] if len(n) > 1 else None)
        case "clamp":
            return f.clamped(n[0], n[1], n[2])
        case "clamp_min":
            return f.clamped(n[0], n[1], None)
        case "clamp_max":
            return f.clamped(n[0], None, n[1])
        case "sort" | "sort_desc":
            return f.ordered(n[0], name == "sort_desc")
        case "histogram_quantile":
            return f.histogram_quantile(n[0], n[1])
        case "histogram_fraction":
            return f.histogram_fraction(n[0], n[1], n[2])
        case "predict_linear":
            return r.predict_linear(n[0], n[1])
        case "quantile_over_time":
            return r.quantile_over_time(n[0], n[1])
        case "holt_winters":
            return r.smoothed(n[0], n[1], n[2])
        case "label_replace":
            dst, replacement, src, pattern = _texts(name, n[1:])
            return f.relabelled(n[0], label_replace(dst, replacement, src, pattern))
        case "label_join":
            dst, separator, *sources = _texts(name, n[1:])
            return f.relabelled(n[0], label_join(dst, separator, sources))
    return None


def _texts(name: str, nodes: list[Node]) -> list[str]:
    if any(node.kind != "string" for node in nodes):
        raise ExprError(f"{name} needs texts after its first argument")
    return [node.text for node in nodes]


def _time(moment: Moment) -> float:
    return moment.at / 1000


def _pi(moment: Moment) -> float:
    return math.pi
