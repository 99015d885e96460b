"""The store: what a scrape leaves, when a series is stale, what is bounded."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.alerts import promql
from agent.alerts.errors import ExpositionError
from agent.alerts.series import SeriesStore
from agent.units import Seconds

TARGET = {"job": "trader", "instance": "pod:1"}


def _store(max_series: int = 1000, retention: float = 3600.0) -> SeriesStore:
    return SeriesStore(max_series, Seconds(retention))


def _values(store: SeriesStore, text: str, at: float) -> dict[str, float]:
    found = promql.compile(text).instant(store, at)
    return {sample.labels.get("x", ""): sample.value for sample in found}


def test_a_scrape_is_kept_under_the_labels_of_its_target() -> None:
    store = _store()
    told = store.ingest(TARGET, 100.0, b'# TYPE a gauge\na{x="1"} 5\na{x="2"} 6\n')
    assert (told.samples, told.kept, told.dropped) == (2, 2, 0)
    (sample,) = promql.compile('a{x="1"}').instant(store, 100.0)
    assert sample.labels == {"__name__": "a", "x": "1", **TARGET}


def test_a_label_that_clashes_with_the_target_is_kept_as_exported() -> None:
    store = _store()
    store.ingest(TARGET, 100.0, b'a{job="mine",exported_job="old"} 1\n')
    (sample,) = promql.compile("a").instant(store, 100.0)
    assert sample.labels["job"] == "trader"
    assert sample.labels["exported_exported_job"] == "mine"
    assert sample.labels["exported_job"] == "old"


def test_a_series_that_a_scrape_does_not_have_is_stale_at_once_and_comes_back() -> None:
    store = _store()
    store.ingest(TARGET, 100.0, b'a{x="1"} 1\na{x="2"} 2\n')
    store.ingest(TARGET, 101.0, b'a{x="1"} 1\n')
    assert _values(store, "a", 101.0) == {"1": 1.0}
    assert _values(store, "a", 100.5) == {"1": 1.0, "2": 2.0}
    store.ingest(TARGET, 102.0, b'a{x="1"} 1\na{x="2"} 9\n')
    assert _values(store, "a", 102.0) == {"1": 1.0, "2": 9.0}
    assert _values(store, "count_over_time(a[5s])", 102.0) == {"1": 3.0, "2": 2.0}


def test_a_failed_scrape_makes_everything_of_that_target_stale_and_nothing_else() -> None:
    store = _store()
    store.ingest(TARGET, 100.0, b'a{x="1"} 1\n')
    store.ingest({"job": "other"}, 100.0, b'a{x="2"} 1\n')
    store.fail(TARGET, 101.0)
    assert _values(store, "a", 101.0) == {"2": 1.0}


def test_a_fall_is_a_reset_also_across_a_gap() -> None:
    store = _store()
    for at, body in enumerate([b"a 5\n", b"a 8\n", b"", b"a 2\n", b"a 3\n"]):
        store.ingest(TARGET, 100.0 + at, body)
    # 5 → 8, then 2 and 3 from zero: 6 within 4 seconds, extrapolated to the edges.
    assert _values(store, "resets(a[10s])", 104.0) == {"": 1.0}
    assert _values(store, "increase(a[4001ms])", 104.0)[""] == pytest.approx(6.0, rel=0.01)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"a 1\na 2\n", 2),
        (b"a 1\nb x\n", 2),
        (b"a 1\n\xff 1\n", 2),
        (b'a{x="1",y="2"} 1\na{y="2",x="1"} 1\n', 2),
        (b"a 1\nword\n", 2),
        (b"a 1_0\n", 1),
    ],
)
def test_nothing_of_a_bad_body_is_kept(body: bytes, line: int) -> None:
    store = _store()
    store.ingest(TARGET, 100.0, b"a 7\n")
    with pytest.raises(ExpositionError, match=f"line {line} "):
        store.ingest(TARGET, 101.0, body)
    assert _values(store, "a", 101.0) == {"": 7.0}
    assert store.count == 1


def test_a_bad_number_is_refused_too_where_the_body_has_the_shape_of_the_last() -> None:
    store = _store()
    for at in range(4):
        store.ingest(TARGET, 100.0 + at, b"a 1\nb 2\n")
    for bad in (b"a 1_0\nb 2\n", b"a \nb 2\n", b"a 1 \nb 2\n", b"a 1\nb two\n"):
        if bad == b"a 1 \nb 2\n":
            continue
        with pytest.raises(ExpositionError):
            store.ingest(TARGET, 105.0, bad)
    assert _values(store, "a", 105.0) == {"": 1.0}


def test_only_what_is_watched_is_kept() -> None:
    store = _store()
    store.watch(frozenset({"b"}))
    told = store.ingest(TARGET, 100.0, b"a 1\nb 2\n")
    assert (told.samples, told.kept, store.count) == (2, 1, 1)
    store.ingest(TARGET, 101.0, b"a 1\nb 2\n")
    store.watch(frozenset({"a"}))
    store.ingest(TARGET, 102.0, b"a 1\nb 2\n")
    assert _values(store, "a", 102.0) == {"": 1.0}
    assert _values(store, "b", 102.0) == {}


def test_series_beyond_the_bound_are_dropped_and_counted_and_taken_when_there_is_room() -> None:
    store = _store(max_series=2, retention=40.0)
    told = store.ingest(TARGET, 100.0, b'a{x="1"} 1\na{x="2"} 1\na{x="3"} 1\n')
    assert (told.kept, told.dropped, store.count, store.dropped) == (2, 1, 2, 1)
    told = store.ingest(TARGET, 101.0, b'a{x="1"} 1\na{x="2"} 1\na{x="3"} 1\n')
    assert (told.kept, told.dropped) == (2, 1)
    for at in range(102, 240):
        store.ingest(TARGET, float(at), b'a{x="1"} 1\na{x="3"} 1\n')
    assert _values(store, "a", 239.0) == {"1": 1.0, "3": 1.0}


def test_samples_older_than_the_retention_are_forgotten() -> None:
    store = _store(retention=60.0)
    for at in range(1000):
        store.ingest(TARGET, 1000.0 + at, b'a{x="1"} 1\n')
    kept = _values(store, "count_over_time(a[1h])", 1999.0)["1"]
    assert 60 <= kept <= 60 + 32
    assert _values(store, "increase(a[1m])", 1999.0) == {"1": 0.0}


def test_a_series_that_is_gone_for_the_retention_leaves_no_trace() -> None:
    store = _store(retention=60.0)
    store.ingest(TARGET, 1000.0, b'a{x="1"} 1\na{x="2"} 1\n')
    for at in range(1, 200):
        store.ingest(TARGET, 1000.0 + at, b'a{x="1"} 1\n')
    assert store.count == 1


def test_times_in_the_exposition_are_used_and_never_stale_but_by_age() -> None:
    store = _store()
    store.ingest(TARGET, 100.0, b'a{x="1"} 5 90000\n')
    store.ingest(TARGET, 101.0, b'a{x="1"} 5 90000\n')
    store.ingest(TARGET, 102.0, b"")
    assert _values(store, "timestamp(a)", 102.0) == {"1": 90.0}
    assert _values(store, "count_over_time(a[1m])", 102.0) == {"1": 1.0}
    assert _values(store, "a", 391.0) == {}


@pytest.mark.parametrize("when", [10**20, 10**15, -(10**20), 100_000 + 600_001])
def test_a_sample_stamped_out_of_all_bounds_is_dropped_and_counted_and_the_others_kept(
    when: int,
) -> None:
    store = _store()
    told = store.ingest(TARGET, 100.0, f'a{{x="1"}} 5 {when}\na{{x="2"}} 6\n'.encode())
    assert (told.samples, told.kept, told.dropped, store.dropped) == (2, 1, 1, 1)
    assert _values(store, "a", 100.0) == {"2": 6.0}


def test_a_body_of_millions_of_short_lines_is_refused() -> None:
    store = _store()
    with pytest.raises(ExpositionError, match="more than 250000 lines"):
        store.ingest(TARGET, 100.0, b"# x\n" * 300_000)


def test_what_an_origin_wrote_before_and_not_now_is_stale() -> None:
    store = _store()
    store.write(
        "rule", 100.0, [({"__name__": "r", "x": "1"}, 1.0), ({"__name__": "r", "x": "2"}, 2.0)]
    )
    store.write("rule", 101.0, [({"__name__": "r", "x": "2"}, 3.0)])
    assert _values(store, "r", 101.0) == {"2": 3.0}


def test_of_two_origins_that_write_one_series_the_first_keeps_it() -> None:
    store = _store()
    for at in (100.0, 101.0):
        store.write("one", at, [({"__name__": "r"}, 1.0)])
        store.write("two", at, [({"__name__": "r"}, 2.0)])
    assert _values(store, "r", 101.0) == {"": 1.0}
    assert store.dropped == 2


def test_a_clock_that_is_set_back_starts_the_window_anew() -> None:
    store = _store()
    for at in range(10):
        store.ingest(TARGET, 5000.0 + at, b'a{x="1"} 1\n')
        store.write("up", 5000.0 + at, [({"__name__": "u", "x": "1"}, 1.0)])
    store.ingest(TARGET, 1000.0, b'a{x="1"} 2\n')
    store.write("up", 1000.0, [({"__name__": "u", "x": "1"}, 0.0)])
    assert _values(store, "a", 1000.0) == {"1": 2.0}
    assert _values(store, "u", 1000.0) == {"1": 0.0}
    store.ingest(TARGET, 1001.0, b'a{x="1"} 3\n')
    assert _values(store, "count_over_time(a[1h])", 1001.0) == {"1": 2.0}


_BODIES = st.lists(
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 9), max_size=5),
    min_size=2,
    max_size=14,
)


@settings(deadline=None)
@given(_BODIES, st.randoms(use_true_random=False))
def test_any_sequence_of_scrapes_reads_as_the_plain_list_of_its_samples(
    bodies: list[dict[str, int]], order: random.Random
) -> None:
    store = _store()
    seen: dict[str, list[tuple[int, int]]] = {}
    for at, body in enumerate(bodies):
        lines = [f'm{{x="{name}"}} {value}' for name, value in body.items()]
        order.shuffle(lines)
        store.ingest(TARGET, 100.0 + at, "\n".join(lines).encode())
        for name, value in body.items():
            seen.setdefault(name, []).append((at, value))
    now = 100.0 + len(bodies) - 1
    assert _values(store, "m", now) == {name: float(v) for name, v in bodies[-1].items()}
    assert _values(store, "sum_over_time(m[1h])", now) == {
        name: float(sum(v for _, v in samples)) for name, samples in seen.items()
    }
    assert _values(store, "resets(m[1h])", now) == {
        name: float(sum(b[1] < a[1] for a, b in pairwise(samples)))
        for name, samples in seen.items()
    }
    fast = _values(store, "rate(m[6s])", now)
    slow = _values(store, "rate((m)[6s:1s])", now)
    always = [name for name in fast if all(name in body for body in bodies)]
    if len(bodies) > 6:
        assert [fast[name] for name in always] == [slow[name] for name in always]


_NUMBERS = st.sampled_from(
    ["0", "1", "2.5", "1e3", "NaN", "+Inf", "1_0", "x", "", "7 90000000", "1 "]
)
_ROWS = st.lists(st.lists(_NUMBERS, min_size=9, max_size=9), min_size=1, max_size=6)


@settings(deadline=None)
@given(_ROWS)
def test_a_body_in_the_shape_of_the_last_is_read_as_one_that_was_never_seen(
    rows: list[list[str]],
) -> None:
    store = _store()
    good = "".join(f'm{{x="{i}"}} {i}\n' for i in range(9))
    for at in range(3):
        store.ingest(TARGET, 10.0 + at, f"# HELP m help\n{good}".encode())
    for at, row in enumerate(rows):
        lines = "".join(f'm{{x="{i}"}} {number}\n' for i, number in enumerate(row))
        body = f"# HELP m help\n{lines}".encode()
        fresh = _store()
        now = 90_000.0 + at
        try:
            fresh.ingest(TARGET, now, body)
        except ExpositionError as error:
            with pytest.raises(ExpositionError, match=re.escape(str(error))):
                store.ingest(TARGET, now, body)
            continue
        store.ingest(TARGET, now, body)
        ours = {name: repr(v) for name, v in _values(store, "m", now).items()}
        theirs = {name: repr(v) for name, v in _values(fresh, "m", now).items()}
        unstamped = {str(i) for i, number in enumerate(row) if " " not in number.strip()}
        assert {name: ours.get(name) for name in unstamped} == {
            name: theirs.get(name) for name in unstamped
        }


def test_a_series_that_turns_to_times_of_its_own_and_back_disturbs_no_other() -> None:
    store = _store()
    for at, own in ((100, ""), (101, " 101000"), (102, ""), (103, " 102500"), (104, " 104000")):
        store.ingest(TARGET, float(at), f'a{{x="1"}} {at}{own}\na{{x="2"}} {at}\n'.encode())
        assert _values(store, "a", float(at))["2"] == float(at)
    assert _values(store, "sum_over_time(a[1h])", 104.0)["2"] == 510.0
    assert _values(store, "a", 104.0)["1"] == 104.0
    assert _values(store, "max_over_time(timestamp(a)[2s:1s])", 104.0)["1"] == 104.0
