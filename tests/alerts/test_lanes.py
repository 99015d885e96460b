"""Two lanes of one target, and rules that are judged as soon as their samples are in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from agent.alerts import lanes
from agent.alerts.engine import AlertsJob
from agent.alerts.promql import compile as promql
from agent.alerts.rules import load_rules
from agent.alerts.series import SeriesStore
from agent.units import Seconds, UnixTime
from tests.alerts.made import until
from tests.alerts.test_engine import Bench
from tests.faults.receiver import FaultyReceiver

T0 = 1_750_000_000.0
TARGET = {"job": "trader", "instance": "pod:1"}
RULES = """
groups:
  - name: g
    rules:
      - alert: Tripped
        expr: increase(trips_total[1m]) >= 1
        labels: {severity: critical}
      - alert: Deep
        expr: depth > 5
        labels: {severity: warning}
"""


def rules(folder: Path, text: str) -> Any:
    path = folder / "r.yml"
    path.write_text(text)
    return load_rules([str(path)])


def test_the_fast_lane_carries_what_critical_rules_read_also_through_recordings(
    tmp_path: Path,
) -> None:
    groups = rules(
        tmp_path,
        """
groups:
  - name: g
    rules:
      - {record: a:rate, expr: "rate(a_total[1m])"}
      - {alert: A, expr: "a:rate > 1 and on (job) up == 1", labels: {severity: critical}}
      - {alert: B, expr: "b > 1", labels: {severity: warning}}
      - {alert: C, expr: "a_total > 100", labels: {severity: warning}}
      - {alert: D, expr: "jules_agent_series > 1 or ALERTS > 3", labels: {severity: critical}}
  - name: own pace
    interval: 30s
    rules:
      - {alert: E, expr: "a_total > 1", labels: {severity: critical}}
""",
    )
    fast = lanes.critical_names(groups)
    assert fast == {"a_total"}
    quick = lanes.quick_rules(groups, fast)
    named = [rule.name for group in groups for rule in group.rules if id(rule) in quick]
    assert named == ["a:rate", "A", "C"]


def test_the_shipped_rules_ask_the_trader_for_no_buckets_four_times_a_second() -> None:
    groups = load_rules(())
    fast = lanes.fast_names(lanes.critical_names(groups))
    assert "circuit_breaker_trips_total" in fast
    assert not any(name.endswith("_bucket") for name in fast)
    quick = lanes.quick_rules(groups, fast)
    named = {rule.name for group in groups for rule in group.rules if id(rule) in quick}
    assert {"CriticalCircuitBreakerTripped", "CriticalRiskLimitBreach"} <= named
    assert "CriticalLatencyP99High" not in named


def test_an_answer_with_families_that_were_not_asked_for_is_noticed() -> None:
    asked = lanes.asked_for({"x_total", "y_seconds_bucket"}, births=True)
    assert {"x_total", "x_created", "y_seconds", "y_seconds_created"} <= set(asked)
    fine = b"# HELP x_total\nx_total 1\nx_created 1\ny_seconds_bucket 1\ny_seconds_sum 1\n"
    assert not lanes.ignores_names(fine, asked)
    assert lanes.ignores_names(fine + b"z 1\n", asked)


@pytest.fixture
def store() -> SeriesStore:
    return SeriesStore(1000, Seconds(600.0))


def values(store: SeriesStore, at: float, expr: str) -> list[float]:
    return [sample.value for sample in promql(expr).instant(store, T0 + at)]


def test_neither_lane_makes_a_series_of_the_other_stale_and_changing_lanes_loses_nothing(
    store: SeriesStore,
) -> None:
    store.ingest(TARGET, T0, b"a_total 1\nb 7\n")
    store.divide(TARGET, frozenset({"a_total"}))
    for tick in (0.25, 0.5, 0.75):
        store.ingest(TARGET, T0 + tick, b"a_total 2\n", fast=True)
        assert values(store, tick, "b") == [7.0]
    store.ingest(TARGET, T0 + 1, b"a_total 99\nb 8\n")
    assert values(store, 1, "a_total") == [2.0]
    assert values(store, 1, "b") == [8.0]
    assert values(store, 1, "increase(a_total[1m]) >= 1") != []
    store.divide(TARGET, frozenset())
    assert values(store, 1.5, "a_total") == [2.0]
    store.ingest(TARGET, T0 + 2, b"a_total 3\nb 8\n")
    assert values(store, 2, "a_total") == [3.0]
    assert values(store, 2, "count_over_time(a_total[1m])") == [5.0]
    assert store.dropped == 0


def test_a_whole_scrape_that_fails_late_does_not_forget_what_the_fast_lane_saw_since(
    store: SeriesStore,
) -> None:
    store.divide(TARGET, frozenset({"a_total"}))
    store.ingest(TARGET, T0 - 1, b"a_total 1\n", fast=True)
    store.ingest(TARGET, T0 + 0.25, b"a_total 1\n", fast=True)
    store.ingest(TARGET, T0 + 0.5, b"a_total 2\n", fast=True)
    store.fail(TARGET, T0)
    assert values(store, 0.6, "a_total") == []
    assert values(store, 0.6, "increase(a_total[1m]) >= 1") != []


def test_a_lane_that_takes_over_with_an_older_stamp_waits_for_its_next_scrape(
    store: SeriesStore,
) -> None:
    store.divide(TARGET, frozenset({"a"}))
    store.ingest(TARGET, T0 + 0.25, b"a 1\n", fast=True)
    store.divide(TARGET, frozenset())
    store.ingest(TARGET, T0, b"a 2\n")
    assert values(store, 0.5, "a") == [1.0]
    assert store.dropped == 0
    store.ingest(TARGET, T0 + 1, b"a 3\n")
    assert values(store, 1, "a") == [3.0]


def test_a_target_that_is_down_takes_both_lanes_along(store: SeriesStore) -> None:
    store.divide(TARGET, frozenset({"a"}))
    store.ingest(TARGET, T0, b"b 1\n")
    store.ingest(TARGET, T0 + 0.1, b"a 1\n", fast=True)
    store.fail(TARGET, T0 + 1)
    assert values(store, 1, '{__name__=~"a|b"}') == []


class Trader:
    """A real prometheus_client behind a real socket; counts what it is asked."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.trips = Counter("trips_total", "Trips.", ["b"], registry=self.registry)
        self.depth = Gauge("depth", "Depth.", registry=self.registry)
        self.fast = self.whole = 0
        self.deaf = False
        self.refuses_fast = self.refuses_whole = False
        self.pause = 0.0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                names = parse_qs(urlsplit(self.path).query).get("name[]", [])
                if names:
                    owner.fast += 1
                else:
                    owner.whole += 1
                    time.sleep(owner.pause)
                chosen = owner.registry
                if names and not owner.deaf:
                    chosen = owner.registry.restricted_registry(names)  # type: ignore[assignment]
                body = generate_latest(chosen)
                refused = owner.refuses_fast if names else owner.refuses_whole
                self.send_response(500 if refused else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def trader() -> Iterator[Trader]:
    made = Trader()
    yield made
    made.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    with FaultyReceiver() as target, FaultyReceiver() as receiver:
        made = Bench(tmp_path, target, receiver)
        made.rules.write_text(RULES)
        yield made
        await made.stop()


def start(bench: Bench, *urls: str, **more: Any) -> AlertsJob:
    targets = [{"job": f"trader{n}", "url": url} for n, url in enumerate(urls)]
    return bench.start(targets=targets, **more)


async def both(job: AlertsJob, at: float) -> None:
    await job.tick(UnixTime(T0 + at))
    await job._rounds.fast(UnixTime(T0 + at + 0.2))


async def test_an_increment_pages_from_the_fast_lane_without_a_whole_scrape(
    bench: Bench, trader: Trader
) -> None:
    job = start(bench, trader.url)
    trader.trips.labels("x")
    await both(job, 0)
    await both(job, 1)
    whole = trader.whole
    trader.trips.labels("x").inc()
    await job._rounds.fast(UnixTime(T0 + 1.5))
    assert bench.alerts() == {"Tripped": "firing"}
    assert trader.whole == whole
    assert job.snapshot()["targets"][0]["fast_lane"] is True


async def test_other_rules_wait_for_the_whole_scrape(bench: Bench, trader: Trader) -> None:
    job = start(bench, trader.url)
    await both(job, 0)
    trader.depth.set(9)
    await job._rounds.fast(UnixTime(T0 + 0.5))
    assert bench.alerts() == {}
    await job.tick(UnixTime(T0 + 1))
    assert bench.alerts() == {"Deep": "firing"}


async def test_a_target_that_ignores_name_stays_on_one_lane_and_says_so(
    bench: Bench, trader: Trader
) -> None:
    trader.deaf = True
    trader.trips.labels("x")
    job = start(bench, trader.url)
    await both(job, 0)
    await both(job, 1)
    assert trader.fast == 1
    (seen,) = job.snapshot()["targets"]
    assert (seen["fast_lane"], "everything" in seen["note"]) == (False, True)
    trader.trips.labels("x").inc()
    await job.tick(UnixTime(T0 + 2))
    assert bench.alerts() == {"Tripped": "firing"}


async def test_a_fast_scrape_that_fails_resolves_nothing(bench: Bench, trader: Trader) -> None:
    job = start(bench, trader.url)
    trader.trips.labels("x")
    await both(job, 0)
    trader.trips.labels("x").inc()
    await both(job, 1)
    assert bench.alerts() == {"Tripped": "firing"}
    trader.refuses_fast = True
    await both(job, 2)
    assert bench.alerts() == {"Tripped": "firing"}
    await both(job, 3)
    assert bench.alerts() == {"Tripped": "firing"}
    assert job.snapshot()["targets"][0]["fast_lane"] is False


async def test_a_target_whose_whole_scrape_fails_is_down_and_its_fast_lane_does_not_flap(
    bench: Bench, trader: Trader
) -> None:
    job = start(bench, trader.url)
    await both(job, 0)
    trader.trips.labels("x")
    await both(job, 1)
    trader.refuses_whole = True
    asked = trader.fast
    for second in range(2, 6):
        await both(job, second)
        assert promql("trips_total").instant(job.store, T0 + second + 0.3) == []
    assert trader.fast == asked
    trader.refuses_whole = False
    await both(job, 6)
    assert job.snapshot()["targets"][0]["fast_lane"] is True


async def test_no_fast_lane_is_asked_for_when_it_is_switched_off(
    bench: Bench, trader: Trader
) -> None:
    job = start(bench, trader.url, fast_interval=0)
    trader.trips.labels("x")
    await both(job, 0)
    trader.trips.labels("x").inc()
    await both(job, 1)
    assert trader.fast == 0
    assert bench.alerts() == {"Tripped": "firing"}


async def test_one_slow_target_does_not_delay_the_judging_of_another(
    bench: Bench, trader: Trader
) -> None:
    slow = Trader()
    slow.pause = 1.5
    try:
        job = start(bench, trader.url, slow.url, fast_interval=0)
        trader.depth.set(9)
        slow.depth.set(9)
        tick = asyncio.ensure_future(job.tick(UnixTime(T0)))
        await until("the quick target's alert", lambda: bench.alerts() == {"Deep": "firing"})
        assert not tick.done()
        await tick
        assert len(job.snapshot()["alerts"]) == 2
    finally:
        slow.close()


async def test_both_schedules_run_and_end_together(bench: Bench, trader: Trader) -> None:
    from agent.clock import SystemClock

    bench.clock = SystemClock()
    job = start(bench, trader.url, interval="200ms", fast_interval="50ms", timeout="150ms")
    trader.trips.labels("x")
    task = asyncio.ensure_future(job.run())
    await until("both lanes", lambda: trader.fast > 4 and trader.whole > 2)
    trader.trips.labels("x").inc()
    await until("the page", lambda: bench.alerts().get("Tripped") == "firing")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_the_agent_s_own_metrics_are_judged_without_a_socket(
    bench: Bench, trader: Trader
) -> None:
    bench.rules.write_text(
        """
groups:
  - name: own
    rules:
      - {alert: Own, expr: "jules_agent_series >= 0", labels: {severity: warning}}
      - alert: Rejected
        expr: increase(jules_agent_config_reloads_total{outcome="refused"}[1m]) >= 1
        labels: {severity: warning}
"""
    )
    job = start(bench, trader.url)
    await both(job, 0)
    await both(job, 6)
    assert bench.alerts() == {"Own": "firing"}
    bench.recorder.inc("config_reloads_total", outcome="refused")
    await both(job, 12)
    assert set(bench.alerts()) == {"Own", "Rejected"}
