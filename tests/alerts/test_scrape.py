"""Scrapes of real, and really bad, targets."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.alerts.promql import compile as promql
from agent.alerts.scrape import Scraper, instance
from agent.alerts.series import SeriesStore
from agent.clock import SystemClock
from agent.config import Target
from agent.telemetry.exporter import PrometheusRecorder
from agent.units import Bytes, Seconds, UnixTime
from tests.faults.receiver import FaultyReceiver

T0 = 1_750_000_000.0
LIMIT = 100_000


class Bench:
    def __init__(self, url: str, timeout: float = 0.5, **labels: str) -> None:
        self.store = SeriesStore(1000, Seconds(600.0))
        self.recorder = PrometheusRecorder()
        self.scraper = Scraper(
            Target.model_validate({"job": "trader", "url": url, "labels": labels}),
            timeout=Seconds(timeout),
            max_body=Bytes(LIMIT),
            store=self.store,
            recorder=self.recorder,
            clock=SystemClock(),
        )

    async def scrape(self, tick: int = 0) -> None:
        await self.scraper.scrape(UnixTime(T0 + tick))

    def value(self, expr: str, tick: int = 0) -> list[float]:
        return [sample.value for sample in promql(expr).instant(self.store, T0 + tick)]


@asynccontextmanager
async def bench(url: str, **options: Any) -> AsyncIterator[Bench]:
    made = Bench(url, **options)
    try:
        yield made
    finally:
        made.scraper.close()


def serving(body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> Callable:  # type: ignore[type-arg]
    return lambda handler: handler.reply(status, body, headers)


async def test_a_scrape_arrives_with_the_target_s_labels_and_says_that_it_is_up() -> None:
    with FaultyReceiver() as target:
        target.answer = serving(b'orders_total{side="buy"} 3\norders_total{side="sell"} 4\n')
        async with bench(target.url("/metrics"), desk="fx") as made:
            await made.scrape()
            (sample,) = promql('orders_total{side="buy"}').instant(made.store, T0)
            assert sample.labels["job"] == "trader"
            assert sample.labels["desk"] == "fx"
            assert sample.labels["instance"] == f"127.0.0.1:{target.port}"
            assert made.value("up") == [1.0]
            assert made.value("scrape_samples_scraped") == [2.0]
            assert len(made.value("scrape_duration_seconds")) == 1
            assert made.scraper.as_dict()["up"] is True


async def test_the_connection_is_kept_and_the_trader_is_asked_for_no_compression() -> None:
    peers = set()
    with FaultyReceiver() as target:

        def answer(handler: Any) -> None:
            peers.add(handler.client_address)
            handler.reply(200, b"a 1\n")

        target.answer = answer
        async with bench(target.url("/metrics")) as made:
            for tick in range(3):
                await made.scrape(tick)
        headers = target.requests[0][2]
    assert len(peers) == 1
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Accept"].startswith("text/plain;version=0.0.4")


@pytest.mark.parametrize("fault", ["hang", "drip", "drip_body"])
async def test_a_slow_or_endless_answer_is_cut_at_the_deadline_and_counted(fault: str) -> None:
    with FaultyReceiver() as target:
        async with bench(target.url("/metrics"), timeout=0.3) as made:
            target.plan(fault)
            began = time.monotonic()
            await made.scrape()
            assert time.monotonic() - began < 5.0  # drips go on until the test is over
            assert made.value("up") == [0.0]
            assert "deadline" in made.scraper.as_dict()["last_error"]
            text = made.recorder.text().decode()
            assert 'jules_agent_scrapes_total{outcome="error",target="trader"} 1.0' in text


async def test_a_series_of_a_target_that_fails_is_stale_at_once_and_comes_back() -> None:
    with FaultyReceiver() as target:
        target.answer = serving(b"a 1\n")
        async with bench(target.url("/metrics")) as made:
            await made.scrape(0)
            target.answer = serving(b"", status=500)
            await made.scrape(1)
            assert made.value("a", 1) == []
            assert made.value("up", 1) == [0.0]
            assert "answered 500" in made.scraper.as_dict()["last_error"]
            target.answer = serving(b"a 2\n")
            await made.scrape(2)
            assert made.value("a", 2) == [2.0]
            assert made.scraper.as_dict()["last_error"] is None


@pytest.mark.parametrize("fault", ["reset", "half", "silent", 302, 404])
async def test_every_other_failure_is_a_failed_scrape_and_no_crash(fault: int | str) -> None:
    with FaultyReceiver() as target:
        target.plan(fault)
        async with bench(target.url("/metrics")) as made:
            await made.scrape()
            assert made.value("up") == [0.0]
            assert made.scraper.as_dict()["last_error"].startswith("trader: ")
        assert len(target.requests) == 1


async def test_nobody_listening_is_a_failed_scrape() -> None:
    async with bench("http://127.0.0.1:1/metrics") as made:
        await made.scrape()
        assert "refused" in made.scraper.as_dict()["last_error"]


async def test_a_body_over_the_bound_is_refused_also_when_it_was_small_on_the_wire() -> None:
    big = b"a 1\n" * (LIMIT // 4 + 1)
    with FaultyReceiver() as target:
        async with bench(target.url("/metrics")) as made:
            target.answer = serving(big)
            await made.scrape(0)
            assert "larger than" in made.scraper.as_dict()["last_error"]
            target.answer = serving(gzip.compress(big), {"Content-Encoding": "gzip"})
            await made.scrape(1)
            assert "larger than" in made.scraper.as_dict()["last_error"]
            bomb = gzip.compress(b"a 1\n" * 10_000_000)
            target.answer = serving(bomb, {"Content-Encoding": "gzip"})
            await made.scrape(2)
            assert "larger than" in made.scraper.as_dict()["last_error"]


async def test_a_compressed_answer_is_read_and_a_broken_one_is_refused() -> None:
    with FaultyReceiver() as target:
        async with bench(target.url("/metrics")) as made:
            packed = gzip.compress(b"a 7\n")
            target.answer = serving(packed, {"Content-Encoding": "gzip"})
            await made.scrape(0)
            assert made.value("a") == [7.0]
            for tick, broken in enumerate((packed[:-6], b"no gzip"), start=1):
                target.answer = serving(broken, {"Content-Encoding": "gzip"})
                await made.scrape(tick)
                assert made.value("up", tick) == [0.0]


async def test_a_body_that_is_no_exposition_is_a_failed_scrape_with_its_reason() -> None:
    with FaultyReceiver() as target:
        target.answer = serving(b"<html>not metrics</html>\n")
        async with bench(target.url("/metrics")) as made:
            await made.scrape()
            assert made.value("up") == [0.0]
            assert made.scraper.as_dict()["last_error"]


async def test_a_connection_that_the_target_closed_between_scrapes_costs_no_scrape() -> None:
    with FaultyReceiver() as target:

        def once(handler: Any) -> None:
            handler.reply(200, b"a 1\n")
            handler.close_connection = True  # without saying so

        target.answer = once
        async with bench(target.url("/metrics")) as made:
            for tick in range(3):
                await made.scrape(tick)
                assert made.value("up", tick) == [1.0]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000/metrics", "localhost:8000"),
        ("https://trader/metrics", "trader:443"),
        ("http://trader", "trader:80"),
        ("http://[::1]:9/m", "[::1]:9"),
    ],
)
def test_the_instance_is_host_and_port_as_prometheus_has_it(url: str, expected: str) -> None:
    assert instance(url) == expected


def test_a_password_in_a_target_s_url_is_not_shown() -> None:
    made = Bench("http://me:secretword@127.0.0.1:9/metrics")
    assert "secretword" not in str(made.scraper.as_dict())
    made.scraper.close()


async def test_a_fault_of_ours_is_a_failed_scrape_and_does_not_end_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench("http://127.0.0.1:1/metrics") as made:

        async def broken(*_: object) -> bytes:
            raise KeyError("urllib3")

        monkeypatch.setattr(made.scraper._fetcher, "body", broken)
        await made.scrape()
        assert made.value("up") == [0.0]
        assert "fault of the agent: KeyError" in made.scraper.as_dict()["last_error"]


def test_urllib3_is_imported_by_the_first_connection_and_never_by_two_threads_at_once() -> None:
    """Imported late for the sake of `init`, but before any thread could race for it."""
    told = (
        "import sys; from agent.alerts.exchange import Connection;"
        "assert 'urllib3' not in sys.modules; Connection();"
        "assert 'urllib3.connection' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", told], check=True, timeout=60)
