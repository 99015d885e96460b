"""From text to nodes: what of PromQL is understood here, and the refusal of everything else.

The grammar and the types are checked by promql-parser; this module walks its tree once. Nothing
unsupported gets past it: native histograms, what Prometheus itself calls experimental, and what the
parser accepts though Prometheus does not, are each an `ExprError` with the place in the text.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import promql_parser as p

from agent.alerts.errors import ExprError
from agent.alerts.labels import NAME
from agent.alerts.promql import aggregate, binary
from agent.alerts.promql.calls import build_call
from agent.alerts.promql.functions import negated
from agent.alerts.promql.node import LOOKBACK, Moment, Node
from agent.alerts.promql.regex import translate
from agent.alerts.promql.selectors import (
    SUBQUERY_STEP,
    Matcher,
    Selector,
    instant,
    matrix,
    shift_of,
    subquery,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_CARDS = {
    "OneToOne": "one-to-one",
    "ManyToOne": "many-to-one",
    "OneToMany": "one-to-many",
    "ManyToMany": "many-to-many",
}
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`|#[^\n]*')
_NEGATIVE_AT = re.compile(r"@\s*-")
_BYTE_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*(\\x[89a-fA-F]|\\[23][0-7]{2})")
_DEEPEST = 100


def parse(text: str) -> Any:
    """The parser's tree of `text`.

    Raises:
        ExprError: it is not PromQL, or the parser would misread it.
    """
    plain = _STRINGS.sub(lambda match: " " * len(match.group()), text)
    negative = _NEGATIVE_AT.search(plain)
    if negative is not None:
        raise ExprError("a time before 1970 after @ is not supported", "", negative.start())
    for quoted in _STRINGS.finditer(text):
        byte = _BYTE_ESCAPE.search(quoted.group()) if quoted.group()[0] in "\"'" else None
        if byte is not None:  # the parser takes it for a character, Prometheus for a byte
            place = quoted.start() + byte.start(1)
            raise ExprError(
                "a byte written as an escape is not supported", "write the character itself", place
            )
    try:
        return p.parse(text)
    except ValueError as error:
        raise ExprError(f"not PromQL: {error}", "", _place(text, str(error))) from None
    except BaseException as error:
        # The parser panics on a few absurd numbers (`offset NaN`), and a panic is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise ExprError(f"not PromQL: {error}") from None


def _place(text: str, message: str) -> int | None:
    """Where the parser's complaint is about, when it quotes a part that occurs once."""
    for quoted in re.findall(r"['`\"]([^'`\"]+)['`\"]", message):
        if text.count(quoted) == 1:
            return text.index(quoted)
    return None


class Builder:
    """Builds the nodes of one expression and gathers the metric names that it mentions."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: set[str] = set()
        self.any_name = False
        self._depth = 0

    def build(self, tree: Any) -> Node:
        """The node of a tree.

        Raises:
            ExprError: some part of it is not supported.
        """
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ExprError("the expression is nested too deeply", "split it by recording rules")
        made: Node = getattr(self, f"_{type(tree).__name__}", self._unknown)(tree)
        self._depth -= 1
        return made

    def refuse(self, what: str, part: str, remedy: str = "") -> ExprError:
        """An error about `part` of the text."""
        found = re.search(rf"(?<![\w:]){re.escape(part)}(?![\w:])", self.text) if part else None
        return ExprError(what, remedy, found.start() if found else None)

    def _unknown(self, tree: Any) -> Node:
        raise ExprError(f"{type(tree).__name__} is not supported")

    # Literals and wrappers.

    def _NumberLiteral(self, tree: p.NumberLiteral) -> Node:  # noqa: N802
        value = float(tree.val)
        return Node("scalar", lambda moment: value, constant=value)

    def _StringLiteral(self, tree: p.StringLiteral) -> Node:  # noqa: N802
        return Node("string", lambda moment: tree.val, text=tree.val)

    def _ParenExpr(self, tree: p.ParenExpr) -> Node:  # noqa: N802
        return self.build(tree.expr)

    def _UnaryExpr(self, tree: p.UnaryExpr) -> Node:  # noqa: N802
        return negated(self.build(tree.expr))

    # Selectors.

    def selector(self, tree: p.VectorSelector) -> Selector:
        """The matchers of a vector selector."""
        if tree.matchers.or_matchers:
            raise self.refuse("`or` between matchers is not Prometheus's", "or")
        name = tree.name
        matchers = []
        for matcher in tree.matchers.matchers:
            made = self._matcher(matcher)
            if made.name == NAME and made.equal and made.pattern is None and name is None:
                name = made.value
            else:
                matchers.append(made)
        if not name:
            name = None
            if all(made.name != NAME for made in matchers) and all(
                _accepts_empty(made) for made in matchers
            ):
                raise ExprError("a selector must have a matcher that an empty label does not meet")
            self.any_name = True
        else:
            self.names.add(name)
        return Selector(name, tuple(matchers))

    def _matcher(self, matcher: p.Matcher) -> Matcher:
        equal = matcher.op in (p.MatchOp.Equal, p.MatchOp.Re)
        if matcher.op in (p.MatchOp.Equal, p.MatchOp.NotEqual):
            return Matcher(matcher.name, matcher.value, equal)
        try:
            pattern = translate(matcher.value)
        except ExprError as error:
            raise self.refuse(str(error), matcher.name, error.remedy) from None
        return Matcher(matcher.name, matcher.value, equal, pattern)

    def _VectorSelector(self, tree: p.VectorSelector) -> Node:  # noqa: N802
        shift, back = self._shift(tree)
        return instant(self.selector(tree), shift, LOOKBACK + back)

    def _MatrixSelector(self, tree: p.MatrixSelector) -> Node:  # noqa: N802
        shift, back = self._shift(tree.vector_selector)
        span = self._span(tree.range)
        return matrix(self.selector(tree.vector_selector), span, shift, span + back)

    def _SubqueryExpr(self, tree: p.SubqueryExpr) -> Node:  # noqa: N802
        shift, back = self._shift(tree)
        inner = self.build(tree.expr)
        if inner.kind == "scalar":
            inner = _as_vector(inner)
        span = self._span(tree.range)
        step = SUBQUERY_STEP if tree.step is None else self._span(tree.step)
        return subquery(inner, span, step, shift, inner.reach + span + back)

    def _span(self, duration: timedelta | None) -> int:
        span = 0 if duration is None else duration // _MILLISECOND
        if span <= 0:
            raise ExprError("a range or step must be longer than nothing")
        return span

    def _shift(self, tree: Any) -> tuple[Any, int]:
        offset = 0 if tree.offset is None else tree.offset // _MILLISECOND
        at: int | str | None = None
        if tree.at is not None:
            kind = str(tree.at.type).rpartition(".")[2]
            try:
                at = kind.lower() if kind != "At" else (tree.at.at - _EPOCH) // _MILLISECOND
            except (ValueError, OverflowError):
                raise self.refuse("the time after @ is beyond every calendar", "@") from None
        return shift_of(offset, at), max(offset, 0)

    def shift(self, tree: Any) -> Any:
        """When the selector `tree` looks."""
        return self._shift(tree)[0]

    # Operators.

    def _BinaryExpr(self, tree: p.BinaryExpr) -> Node:  # noqa: N802
        op = str(tree.op)
        if op not in binary.ARITHMETIC and op not in binary.COMPARISON and op not in binary.SETS:
            raise self.refuse(f"operator {op} is not supported: it is experimental", op)
        left, right = self.build(tree.lhs), self.build(tree.rhs)
        modifier = tree.modifier
        as_bool = bool(modifier and modifier.return_bool)
        if modifier is not None and (
            modifier.fill_values.lhs is not None or modifier.fill_values.rhs is not None
        ):
            raise self.refuse("fill is experimental in Prometheus and not supported", "fill")
        if {left.kind, right.kind} - {"scalar", "vector"}:
            raise ExprError(f"operator {op} needs scalars or instant vectors")
        if left.kind == right.kind == "scalar":
            if op in binary.COMPARISON and not as_bool:
                raise ExprError(f"comparing two scalars needs bool: {op} bool")
            return binary.scalars(op, left, right)
        if "scalar" in (left.kind, right.kind):
            if op in binary.SETS:
                raise ExprError(f"set operator {op} is not allowed with a scalar")
            return binary.with_scalar(op, left, right, as_bool)
        matching = self._matching(modifier)
        if op in binary.SETS:
            return binary.sets(op, left, right, matching)
        return binary.vectors(op, left, right, matching, as_bool)

    def _matching(self, modifier: p.BinModifier | None) -> binary.Matching:
        if modifier is None:
            return binary.Matching()
        labels: frozenset[str] = frozenset()
        on = False
        if modifier.matching is not None:
            on = "Include" in str(modifier.matching.type)
            labels = frozenset(modifier.matching.labels)
        include = tuple(modifier.group_labels or ())
        card = _CARDS[str(modifier.card).rpartition(".")[2]]
        return binary.Matching(on, labels, card, include)

    def _AggregateExpr(self, tree: p.AggregateExpr) -> Node:  # noqa: N802
        op = str(tree.op)
        node = self.build(tree.expr)
        by, names = True, frozenset[str]()
        if tree.modifier is not None:
            by = "By" in str(tree.modifier.type)
            names = frozenset(tree.modifier.labels)
        group = aggregate.grouping(by, names)
        one_name = not by or NAME not in names
        if op in aggregate.SIMPLE:
            return replace(aggregate.simple(op, node, group), one_name=one_name)
        if op not in ("topk", "bottomk", "quantile", "count_values"):
            raise self.refuse(f"{op} is experimental in Prometheus and not supported", op)
        parameter = self.build(tree.param)
        if op == "count_values":
            if not parameter.text:
                raise self.refuse("count_values needs the name of a label", op)
            return aggregate.count_values(parameter.text, node, by, names)
        if op == "quantile":
            return replace(aggregate.quantiles(parameter, node, group), one_name=one_name)
        return aggregate.ranked(op, parameter, node, group)

    def _Call(self, tree: p.Call) -> Node:  # noqa: N802
        return build_call(self, tree)


def _accepts_empty(matcher: Matcher) -> bool:
    if matcher.pattern is None:
        return (matcher.value == "") is matcher.equal
    return (matcher.pattern.fullmatch("") is not None) is matcher.equal


def _as_vector(node: Node) -> Node:
    from agent.alerts.labels import EMPTY

    def run(moment: Moment) -> Any:
        return [(EMPTY, node.run(moment))]

    return Node("vector", run, True, node.reach)
