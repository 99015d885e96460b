"""A job that crashes starts again, later each time, and the others never notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from agent.health import Condition
from agent.supervisor import FIRST_DELAY, LONGEST_DELAY, WELL_AFTER, Supervisor, backoff
from agent.telemetry.metrics import NullRecorder
from agent.telemetry.redaction import MASK, REDACTOR
from agent.units import Seconds
from tests.faults.clock import FakeClock, settle


class FakeJob:
    """Runs `well_for` seconds, then raises what it is told to; counts its starts and drains."""

    def __init__(self, name: str, clock: FakeClock, error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self.well_for = Seconds(0.0)
        self.starts: list[float] = []
        self.drains = 0
        self._clock = clock

    async def run(self) -> None:
        self.starts.append(self._clock.monotonic())
        await self._clock.sleep(self.well_for)
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()

    async def drain(self) -> None:
        self.drains += 1

    def conditions(self) -> Sequence[Condition]:
        return ()

    def snapshot(self) -> Mapping[str, Any]:
        return {}


class Stage:
    """A supervisor without jitter, two jobs and the clock that moves them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.supervisor = Supervisor(self.clock, NullRecorder(), roll=lambda: 1.0)
        self.bad = FakeJob("alerts", self.clock, RuntimeError("disk on fire"))
        self.good = FakeJob("secrets", self.clock)
        self.supervisor.start(self.bad)
        self.supervisor.start(self.good)


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    await settle()
    yield made
    for name in ("alerts", "secrets"):
        await made.supervisor.stop(name)


async def test_a_crashed_job_is_started_again_and_the_other_goes_on(stage: Stage) -> None:
    assert stage.supervisor.records["alerts"].state == "backoff"
    await stage.clock.advance(FIRST_DELAY)
    assert len(stage.bad.starts) == 2
    assert len(stage.good.starts) == 1
    assert stage.supervisor.records["secrets"].state == "running"


async def test_the_delay_doubles_up_to_its_bound(stage: Stage) -> None:
    for _ in range(10):
        await stage.clock.advance(LONGEST_DELAY)
    waits = [b - a for a, b in zip(stage.bad.starts, stage.bad.starts[1:], strict=False)]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == LONGEST_DELAY


async def test_a_job_that_ran_well_starts_from_the_shortest_delay_again(stage: Stage) -> None:
    for _ in range(6):
        await stage.clock.advance(LONGEST_DELAY)
    stage.bad.well_for = WELL_AFTER
    await stage.clock.advance(LONGEST_DELAY)  # a start from which it runs well, then crashes
    started = stage.bad.starts[-1]
    await stage.clock.advance(WELL_AFTER + FIRST_DELAY)
    assert stage.bad.starts[-1] == started + WELL_AFTER + FIRST_DELAY


async def test_what_crashed_and_why_is_told_and_does_not_gate_readiness(stage: Stage) -> None:
    told = {condition.name: condition for condition in stage.supervisor.conditions()}
    assert not told["job-alerts"].ok
    assert "RuntimeError: disk on fire" in told["job-alerts"].reason
    assert not told["job-alerts"].gates_ready
    assert told["job-secrets"].ok


async def test_the_reason_of_a_crash_holds_no_secret(stage: Stage) -> None:
    REDACTOR.learn("test/supervisor", b"c4n4ry-in-a-crash")
    try:
        stage.bad.error = RuntimeError("login with c4n4ry-in-a-crash failed")
        await stage.clock.advance(FIRST_DELAY)
        assert stage.supervisor.records["alerts"].last_error == (
            f"RuntimeError: login with {MASK} failed"
        )
    finally:
        REDACTOR.learn("test/supervisor", b"")


async def test_a_job_that_returns_is_started_again_too(stage: Stage) -> None:
    async def ends() -> None:
        return

    stage.bad.run = ends  # type: ignore[method-assign]
    await stage.clock.advance(FIRST_DELAY)
    assert stage.supervisor.records["alerts"].last_error == "ended without being asked to"


async def test_stop_cancels_then_drains_once(stage: Stage) -> None:
    await stage.supervisor.stop("secrets")
    await stage.supervisor.stop("secrets")
    assert stage.good.drains == 1
    assert stage.supervisor.records["secrets"].state == "stopped"


async def test_a_drain_that_fails_does_not_reach_the_caller(stage: Stage) -> None:
    async def fails() -> None:
        raise OSError("no space")

    stage.good.drain = fails  # type: ignore[method-assign]
    await stage.supervisor.stop("secrets")
    assert stage.supervisor.records["secrets"].state == "stopped"


@given(st.integers(1, 10_000), st.floats(0.0, 1.0, exclude_max=True))
def test_every_delay_is_between_half_the_first_and_the_longest(failures: int, roll: float) -> None:
    assert FIRST_DELAY / 2 <= backoff(failures, lambda: roll) <= LONGEST_DELAY
