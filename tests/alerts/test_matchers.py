"""Alertmanager's matchers mean here what they mean there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alerts.matchers import MatcherError, make, match, parse, parse_all


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('severity="critical"', [("severity", "=", "critical")]),
        ("severity = critical", [("severity", "=", "critical")]),
        ('{a="b", c!="d"}', [("a", "=", "b"), ("c", "!=", "d")]),
        ('{a="b",}', [("a", "=", "b")]),
        ('{"a.b 🙂"=~"x.*"}', [("a.b 🙂", "=~", "x.*")]),
        ("日本!~京都", [("日本", "!~", "京都")]),
        (r'a="q\"\\\n"', [("a", "=", 'q"\\\n')]),
        ('a=""', [("a", "=", "")]),
        ("a=", [("a", "=", "")]),
        ('a="x,y}"', [("a", "=", "x,y}")]),
        ("{}", []),
        ("", []),
    ],
)
def test_what_alertmanager_reads_is_read_so(
    text: str, expected: list[tuple[str, str, str]]
) -> None:
    assert [(m.name, m.op, m.value) for m in parse(text)] == expected


@pytest.mark.parametrize(
    "text",
    ["a", "=b", '{a="b"', 'a="b"}', 'a="b" c="d"', 'a=="b"', 'a=~"("', r'a="\x"', '""="a"',
     'a="b', "a=b'c", 'a=~"(?=x)"', "a b=c"],
)  # fmt: skip
def test_what_is_no_matcher_is_refused_and_named(text: str) -> None:
    with pytest.raises(MatcherError) as caught:
        parse(text)
    assert "matcher" in str(caught.value)
    assert caught.value.remedy


def test_a_regular_expression_must_match_the_whole_value() -> None:
    (matcher,) = parse('a=~"b|c"')
    assert matcher.matches({"a": "b"})
    assert not matcher.matches({"a": "bb"})
    (negative,) = parse('a!~"b.*"')
    assert not negative.matches({"a": "bb"})
    assert negative.matches({})


def test_a_missing_label_has_the_empty_value() -> None:
    assert match(parse('a=""'), {"b": "c"})
    assert not match(parse('a!=""'), {"b": "c"})
    assert match(parse('a=~"x|"'), {})


def test_all_matchers_must_hold() -> None:
    both = parse_all(['a="1"', 'b="2"'])
    assert match(both, {"a": "1", "b": "2"})
    assert not match(both, {"a": "1"})
    assert match((), {})


NAMES = st.text(min_size=1, max_size=10)


@given(st.lists(st.tuples(NAMES, st.sampled_from(("=", "!=")), st.text(max_size=20)), max_size=4))
def test_whatever_is_written_out_is_read_back_the_same(
    parts: list[tuple[str, str, str]],
) -> None:
    made = tuple(make(*part) for part in parts)
    assert parse("{" + ",".join(map(str, made)) + "}") == made


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_and_never_a_crash(text: str) -> None:
    try:
        made = parse(text)
    except MatcherError:
        return
    assert parse(",".join(map(str, made))) == made
