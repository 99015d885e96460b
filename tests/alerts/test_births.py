"""First increments: counters that are born above zero, or that hide behind a restart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.alerts.promql import compile as promql
from agent.alerts.series import SeriesStore
from agent.units import Seconds

T0 = 1_750_000_000.0
TARGET = {"job": "trader", "instance": "pod:1"}
NAIVE = "increase(trips_total[1m]) >= 1"
Feed = Callable[[float, str], None]


@pytest.fixture
def store() -> SeriesStore:
    made = SeriesStore(1000, Seconds(360.0))
    made.watch(frozenset({"trips_total", "queue", "up"}))
    made.watch_births(frozenset({"trips_total", "wait_count"}))
    return made


def feed(store: SeriesStore, at: float, body: str, fast: bool = False) -> None:
    store.ingest(TARGET, T0 + at, body.encode(), fast)


def fires(store: SeriesStore, at: float, expr: str = NAIVE) -> bool:
    return bool(promql(expr).instant(store, T0 + at))


def created(at: float) -> str:
    return f'trips_created{{b="x"}} {T0 + at}\n'


def started(at: float) -> str:
    return f"process_start_time_seconds {T0 + at}\n"


def test_a_counter_born_at_one_pages_when_the_library_says_when_it_was_created(
    store: SeriesStore,
) -> None:
    feed(store, 0, "queue 1\n")
    feed(store, 1, 'queue 1\ntrips_total{b="x"} 1\n' + created(0.4))
    assert fires(store, 1)
    assert not fires(store, 62)


def test_a_counter_born_at_one_pages_by_the_start_of_the_process_alone(store: SeriesStore) -> None:
    feed(store, 0, "queue 1\n" + started(-5000))
    assert not fires(store, 0)
    feed(store, 1, 'queue 1\ntrips_total{b="x"} 1\n' + started(-5000))
    feed(store, 2, 'queue 1\ntrips_total{b="x"} 1\n' + started(-5000))
    assert fires(store, 2)


def test_without_either_nothing_is_invented(store: SeriesStore) -> None:
    feed(store, 0, "queue 1\n")
    for tick in range(1, 5):
        feed(store, tick, 'queue 1\ntrips_total{b="x"} 1\n')
    assert not fires(store, 4)


def test_an_increment_that_hides_behind_a_restart_pages(store: SeriesStore) -> None:
    for tick in range(3):
        feed(store, tick, 'trips_total{b="x"} 1\n' + started(-5000))
    assert not fires(store, 2)
    for tick in (3, 4):
        store.fail(TARGET, T0 + tick)
    feed(store, 5, 'trips_total{b="x"} 1\n' + started(4.2))
    feed(store, 6, 'trips_total{b="x"} 1\n' + started(4.2))
    assert fires(store, 6)


@pytest.mark.parametrize("told", [created, started])
def test_a_restart_that_no_scrape_missed_pages_too(
    store: SeriesStore, told: Callable[[float], str]
) -> None:
    for tick in range(3):
        feed(store, tick, 'trips_total{b="x"} 1\n' + told(-5000))
    feed(store, 3, 'trips_total{b="x"} 1\n' + told(2.5))
    assert fires(store, 3)
    (sample,) = promql("increase(trips_total[10s])").instant(store, T0 + 3)
    assert sample.value >= 1.0


def test_an_old_counter_at_the_agent_s_own_start_is_no_event(store: SeriesStore) -> None:
    for tick in range(5):
        feed(store, tick, 'trips_total{b="x"} 5\n' + started(-5000) + created(-4000))
    assert not fires(store, 4)


def test_a_series_that_vanishes_and_comes_back_is_not_newly_born(store: SeriesStore) -> None:
    feed(store, 0, 'queue 1\ntrips_total{b="x"} 7\n' + started(-5000))
    feed(store, 1, "queue 1\n" + started(-5000))
    for tick in (2, 3, 500, 501):
        feed(store, tick, 'queue 1\ntrips_total{b="x"} 7\n' + started(-5000))
        assert not fires(store, tick)
    feed(store, 502, "queue 1\n" + started(-5000))
    feed(store, 1200, "queue 1\n" + started(-5000))
    feed(store, 1201, 'queue 1\ntrips_total{b="x"} 7\n' + started(-5000))
    assert not fires(store, 1201)


def test_a_target_s_clock_that_is_ahead_does_not_put_the_zero_after_the_event(
    store: SeriesStore,
) -> None:
    feed(store, 0, "queue 1\n")
    feed(store, 1, 'trips_total{b="x"} 1\n' + created(30))
    assert fires(store, 1)


def test_gauges_and_counters_of_other_rules_are_left_alone(store: SeriesStore) -> None:
    store.watch(frozenset({"queue", "other_total"}))
    feed(store, 0, started(-50))
    feed(store, 1, "queue 5\nother_total 5\n" + started(-50))
    feed(store, 2, "queue 5\nother_total 5\n" + started(-50))
    assert not fires(store, 2, "increase(queue[1m]) > 0 or increase(other_total[1m]) > 0")


def test_a_restart_told_on_the_whole_scrape_reaches_the_fast_lane(store: SeriesStore) -> None:
    feed(store, 0, "queue 1\n" + started(-5000))
    store.divide(TARGET, frozenset({"trips_total", "trips_created"}))
    for tick in (0.25, 0.5):
        feed(store, tick, 'trips_total{b="x"} 1\n', fast=True)
    feed(store, 1, "queue 1\n" + started(0.6))
    feed(store, 1.25, 'trips_total{b="x"} 1\n', fast=True)
    assert fires(store, 1.25)


def test_zeros_do_not_pile_up(store: SeriesStore) -> None:
    for tick in range(2000):
        feed(store, tick, f'trips_total{{b="x"}} 1\n{created(tick - 0.5)}')
    (family,) = store.families("trips_total")
    (series,) = family.series.values()
    assert len(series.segments) < 2 * 400
