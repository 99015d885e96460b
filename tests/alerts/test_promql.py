"""What is refused, and what an expression tells about itself."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alerts import promql
from agent.alerts.errors import EvalError, ExprError
from agent.alerts.promql.regex import translate
from agent.alerts.series import SeriesStore
from agent.units import Seconds


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("limitk(2, a)", "limitk"),
        ("a + limit_ratio(0.5, b)", "limit_ratio"),
        ("info(a)", "info"),
        ("mad_over_time(a[1m])", "mad_over_time"),
        ("sort_by_label(a, 'x')", "sort_by_label"),
        ("1 + histogram_count(a)", "histogram_count"),
        ("a / fill(0) b", "fill"),
        ("a @ -5", "@"),
        ('a{x="\\xff"}', "\\xff"),
        ('{x="1" or y="2"}', "or"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_place(text: str, part: str) -> None:
    with pytest.raises(ExprError) as caught:
        promql.compile(text)
    assert caught.value.position == text.index(part)


@pytest.mark.parametrize(
    "text",
    [
        "", "a +", "rate(a)", "sum(1)", "a[5m]", '"text"', "1 == 2", "a and 1", "{}", '{x=~".*"}',
        'a{x=~"b(?!c)"}', "foo(a)", "rate(a[0s])", "a[5m+1m]", "rate(a[5m] anchored)", "a" * 70_000,
        "-" * 2_000 + "a", "a{x=~'[b'}", "topk('a', b)", "a offset NaN", "a @ 1e300",
        "a @ 253402300800", "count_values('', a)", "a[99999999999y]",
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused_when_it_is_compiled(text: str) -> None:
    with pytest.raises(ExprError):
        promql.compile(text)


@pytest.mark.parametrize(
    ("text", "names", "seconds"),
    [
        ("a", {"a"}, 300),
        ("rate(a[1m])", {"a"}, 60),
        ("rate(a[1m] offset 5m)", {"a"}, 360),
        ("max_over_time(rate(a[1m])[10m:30s])", {"a"}, 660),
        ('{__name__="a"} > on (x) b offset 1h', {"a", "b"}, 3900),
        ("vector(1)", set(), 0),
        ('{__name__=~"a.*"}', None, 300),
        ("time() - timestamp(a)", {"a"}, 300),
    ],
)
def test_an_expression_tells_what_it_reads_and_how_far_back(
    text: str, names: set[str] | None, seconds: float
) -> None:
    expression = promql.compile(text)
    assert expression.names == names
    assert expression.longest_range == seconds


def test_a_match_that_is_not_unique_is_an_error_of_the_evaluation() -> None:
    store = SeriesStore(10, Seconds(600))
    store.write("o", 1.0, [({"__name__": "a", "x": "1"}, 1.0), ({"__name__": "a", "x": "2"}, 1.0)])
    with pytest.raises(EvalError, match="many-to-many"):
        promql.compile("a * on () a").instant(store, 1.0)


def test_a_selection_follows_series_that_come_and_go() -> None:
    store = SeriesStore(10, Seconds(600))
    expression = promql.compile('count(a{x=~".+"})')
    for at, names in enumerate(("1", "12", "123", "3")):
        store.write("o", float(at), [({"__name__": "a", "x": n}, 1.0) for n in names])
        assert [s.value for s in expression.instant(store, float(at))] == [len(names)]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("[[:alpha:]]+", "abc", "ab1"),
        (r"\d+", "12", "１２"),
        (r"[\w-]+", "a-b", "é"),
        (r"a\z", "a", "a\n"),
        ("a$", "a", "a\n"),
        ("a.b", "a\nb", "ab"),
        (r"\Qa.b\E", "a.b", "axb"),
        ("a(?i)bC", "aBc", "Abc"),
        ("(?i)a|b", "B", "c"),
        (r"\x{61}+", "aa", "b"),
        ("a{2}", "aa", "a"),
        ("a{,2}", "a{,2}", "aa"),
        ("[]a]+", "]a", "b"),
    ],
)
def test_a_regular_expression_means_what_it_means_to_prometheus(
    pattern: str, yes: str, no: str
) -> None:
    compiled = translate(pattern)
    assert compiled.fullmatch(yes)
    assert not compiled.fullmatch(no)


@pytest.mark.parametrize(
    "pattern", ["a++", "(?=a)", "(?x)a", r"\pL", r"(a)\1", "[a&&b]", "a(?i)b|c"]
)
def test_what_python_would_take_otherwise_is_refused(pattern: str) -> None:
    with pytest.raises(ExprError):
        translate(pattern)


@given(st.text(st.sampled_from("ab.*+?()[]|{}^$\\-12,:?i"), max_size=12))
def test_translating_either_compiles_or_refuses(pattern: str) -> None:
    with contextlib.suppress(ExprError):
        assert isinstance(translate(pattern), re.Pattern)


@given(st.text(st.sampled_from("ab{}[]()<>=!~\"'+-*/^,. 5ms@offsetbyon"), max_size=30))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    with contextlib.suppress(ExprError):
        promql.compile(text)
