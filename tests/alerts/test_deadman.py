"""The outside service hears from us while rules are evaluated, and not a moment longer."""

from __future__ import annotations

from typing import Any

import pytest

from agent.alerts.deadman import Pinger
from agent.configrouting import DeadMan
from agent.telemetry.metrics import NullRecorder
from agent.units import Monotonic, Seconds
from tests.alerts.made import until
from tests.faults.clock import FakeClock
from tests.faults.receiver import FaultyReceiver


class Bench:
    def __init__(self, receiver: FaultyReceiver, **more: Any) -> None:
        self.clock = FakeClock()
        self.at: Monotonic | None = self.clock.monotonic()
        self.receiver = receiver
        receiver.answer = lambda handler: handler.reply(204, b"")
        tree = {"url": receiver.url("/ping/abc"), "interval": "60s", **more}
        self.pinger = Pinger(
            DeadMan.model_validate({k: v for k, v in tree.items() if v is not None}),
            reader=lambda _name: receiver.url("/secret-ping").encode(),
            learn=lambda _name, _value: None,
            clock=self.clock,
            recorder=NullRecorder(),
            evaluated=lambda: (self.at, Seconds(2.0)),
        )

    async def pings(self, count: int) -> None:
        await until(f"{count} pings", lambda: len(self.receiver.requests) >= count)
        await until("the note of it", lambda: self.pinger._last is not None)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_it_pings_each_interval_while_evaluation_goes_on(method: str) -> None:
    with FaultyReceiver() as receiver:
        bench = Bench(receiver, method=method)
        bench.pinger.start()
        for count in (1, 2, 3):
            await bench.pings(count)
            bench.pinger._last = None
            while len(receiver.requests) == count:
                bench.at = Monotonic(bench.clock.monotonic() + 60.0)
                await bench.clock.advance(60.0)
        assert bench.pinger.condition().ok
        await bench.pinger.stop()


async def test_it_stops_when_no_evaluation_ended_for_three_intervals_and_goes_on_after() -> None:
    with FaultyReceiver() as receiver:
        bench = Bench(receiver)
        bench.clock.tick(6.1)
        bench.pinger.start()
        await bench.clock.advance(300.0)
        assert receiver.requests == []
        condition = bench.pinger.condition()
        assert not condition.ok
        assert not condition.gates_ready
        bench.at = bench.clock.monotonic()
        await bench.clock.advance(1.0)
        await bench.pings(1)
        assert bench.pinger.condition().ok
        await bench.pinger.stop()


async def test_before_the_first_evaluation_it_is_silent() -> None:
    with FaultyReceiver() as receiver:
        bench = Bench(receiver)
        bench.at = None
        bench.pinger.start()
        await bench.clock.advance(5.0)
        assert receiver.requests == []
        await bench.pinger.stop()


async def test_a_service_that_refuses_is_shown_and_its_secret_url_is_not() -> None:
    with FaultyReceiver() as receiver:
        bench = Bench(receiver, url=None, url_from={"secret": "ping"})
        receiver.answer = lambda handler: handler.reply(404, b"")
        bench.pinger.start()
        await until("a refusal", lambda: not bench.pinger.condition().ok)
        told = bench.pinger.condition()
        assert "404" in told.reason
        assert "secret-ping" not in str(told)
        await bench.pinger.stop()
