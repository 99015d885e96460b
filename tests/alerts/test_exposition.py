"""The careful parser, against the format and against prometheus_client's own writer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from agent.alerts.errors import ExpositionError
from agent.alerts.exposition import LONGEST_LINE, Line, parse_line


def _line(text: str, openmetrics: bool = False) -> Line:
    found = parse_line(text, 7, openmetrics)
    assert found is not None
    return found


def test_name_labels_value_and_time_are_read() -> None:
    line = _line('a_total{x="1",y="two words"} 3.5 1700000000123')
    assert line.labels == {"__name__": "a_total", "x": "1", "y": "two words"}
    assert (line.value, line.at) == (3.5, 1_700_000_000_123)


def test_openmetrics_times_are_seconds_and_exemplars_are_passed_over() -> None:
    line = _line('a_bucket{le="1"} 5 1700000000.5 # {trace_id="a b # c"} 0.5', openmetrics=True)
    assert (line.value, line.at) == (5.0, 1_700_000_000_500)
    assert _line('a_bucket{le="1"} 5 # {trace_id="x"} 0.5 1.2', openmetrics=True).at is None


def test_escapes_are_undone() -> None:
    assert _line(r'a{x="q\"b\\n\n"} 1').labels["x"] == 'q"b\\n\n'


def test_quoted_names_are_read() -> None:
    assert _line('{"my.metric", "a.b"="c"} 1').labels == {"__name__": "my.metric", "a.b": "c"}


@pytest.mark.parametrize("text", ["", "   ", "# HELP a b", "#", " # x"])
def test_comments_and_blanks_are_no_samples(text: str) -> None:
    assert parse_line(text, 1, False) is None


@pytest.mark.parametrize("text", ["+Inf", "-Inf", "NaN", "1e3", ".5", "5.", "-0"])
def test_numbers_that_prometheus_reads_are_read(text: str) -> None:
    value = _line(f"a {text}").value
    expected = float(text)
    assert value == expected or (math.isnan(value) and math.isnan(expected))


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a ",
        "a x",
        "a 1_000",
        "a 0x10",
        "a 1 2 3",
        "a 1 soon",
        "a{x=1} 1",
        'a{x="1" 1',
        'a{x="1} 1',
        'a{x="1"}1',
        'a{x="1",x="2"} 1',
        r'a{x="\q"} 1',
        '{x="1"} 1',
        "1a 2",
        " 5",
        'a{9="x"} 1',
        "a １",
        "x" * (LONGEST_LINE + 1),
    ],
)
def test_what_is_not_in_the_format_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ExpositionError, match="line 7 "):
        parse_line(text, 7, False)


_NAMES = st.from_regex(r"[a-z_:][a-z0-9_:]{0,8}", fullmatch=True)
_LABELS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True).filter(lambda n: n != "le"),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=8),
    max_size=3,
)


@given(_NAMES, _LABELS, st.floats(allow_nan=False))
def test_what_is_written_is_read_back(name: str, labels: dict[str, str], value: float) -> None:
    inner = ",".join(
        '{}="{}"'.format(k, v.replace("\\", "\\\\").replace('"', '\\"')) for k, v in labels.items()
    )
    line = _line(f"{name}{{{inner}}} {value!r}")
    assert line.labels == {"__name__": name, **labels}
    assert line.value == value


@given(st.text(max_size=60))
def test_no_line_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        parse_line(text, 1, False)
        parse_line(text, 1, True)
    except ExpositionError:
        pass


def test_everything_that_prometheus_client_writes_is_read() -> None:
    registry = CollectorRegistry()
    Counter("c", "help", ["l"], registry=registry).labels(l='a"b\\c\nd').inc(3)
    Gauge("g", "help", registry=registry).set(float("inf"))
    Histogram("h", "help", registry=registry).observe(0.3, {"trace": "x"})
    for text, openmetrics in (
        (generate_latest(registry), False),
        (generate_openmetrics(registry), True),  # type: ignore[no-untyped-call]
    ):
        lines = [parse_line(t, 1, openmetrics) for t in text.decode().splitlines()]
        found = {line.labels["__name__"]: line.value for line in lines if line is not None}
        assert found["c_total"] == 3.0
        assert found["h_count"] == 1.0
        assert math.isinf(found["g"])
