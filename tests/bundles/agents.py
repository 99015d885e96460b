"""A bundles job as the daemon builds it, in a test's hands: real store, root, state and trader."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.audit import AuditLog
from agent.bundles.job import BundlesJob
from agent.clock import SystemClock
from agent.configpod import Bundles
from agent.errors import AgentError
from agent.gates import Reading, Result
from agent.state import StateDB
from agent.telemetry.exporter import PrometheusRecorder
from agent.units import Seconds
from tests.faults.trader import TraderStub

FRESH = Seconds(0.1)
FIRING = Result({"__name__": "ALERTS", "alertname": "LatencyHigh"}, 1.0)


@dataclass
class Metrics:
    """A metric gate that says what the test sets."""

    results: tuple[Result, ...] = ()
    age: Seconds | None = FRESH
    error: str | None = None

    def validate(self, expr: str) -> None:
        if expr == "nonsense(":
            raise AgentError("nonsense( is no expression")

    def read(self, expr: str) -> Reading:
        if self.error:
            raise AgentError(self.error)
        return Reading(self.results, self.age)


@dataclass
class Secrets:
    """A secret gate that says what the test sets."""

    reason: str | None = None

    def why_not(self) -> str | None:
        return self.reason


@dataclass
class Place:
    """Everything around one agent that outlives it."""

    tmp: Path
    trader: TraderStub
    metrics: Metrics | None = field(default_factory=Metrics)
    secrets: Secrets = field(default_factory=Secrets)
    options: dict[str, Any] = field(default_factory=dict)
    bake: float = 0.2
    adopt: float = 5.0

    def section(self, **changes: Any) -> Bundles:
        values: dict[str, Any] = {
            "root": self.tmp / "models",
            "store": {"path": self.tmp / "store", "poll": 0.2},
            "health": {
                "url": self.trader.url,
                "interval": 0.02,
                "timeout": 2.0,
                "adopt_within": self.adopt,
            },
            "bake": {"duration": self.bake, "interval": 0.02},
            "limits": {"headroom": 0},
            "settle": 0.01,
            **self.options,
            **changes,
        }
        return Bundles(**values)

    @property
    def root(self) -> Path:
        return self.tmp / "models"

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[BundlesJob]:
        """The job, running; stopped as the supervisor stops it."""
        state = self.tmp / "state"
        state.mkdir(exist_ok=True)
        (self.tmp / "store").mkdir(exist_ok=True)
        clock = SystemClock()
        db, audit = StateDB(state / "state.db"), AuditLog(state)
        try:
            job = BundlesJob(
                self.section(),
                channel="test",
                manifest_required=True,
                db=db,
                audit=audit,
                recorder=PrometheusRecorder(),
                clock=clock,
                secret_gate=self.secrets,
                metric_gate=self.metrics,
                roll=lambda: 0.5,
            )
            task = asyncio.create_task(job.run())
            try:
                yield job
            finally:
                if task.done() and not task.cancelled() and task.exception():
                    raise task.exception() or AssertionError
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await job.drain()
        finally:
            audit.close()
            db.close()


def newest(job: BundlesJob, version: str) -> dict[str, Any] | None:
    """The newest rollout of `version`, as the face shows it."""
    for item in job.snapshot()["history"]:
        if item["version"] == version:
            return dict(item)
    return None


async def until(what: str, seen: Callable[[], Any], within: float = 20.0) -> Any:
    """The first true answer of `seen`."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if found := seen():
            return found
        await asyncio.sleep(0.005)
    raise AssertionError(f"{what}: not within {within} s")


async def ended(job: BundlesJob, version: str, state: str) -> dict[str, Any]:
    """Wait until the newest rollout of `version` is in `state` and nothing rolls."""

    def seen() -> dict[str, Any] | None:
        entry = newest(job, version)
        idle = job.rollouts.rolling is None
        return entry if entry and entry["state"] == state and idle else None

    found: dict[str, Any] = await until(f"{version} to be {state}: {newest(job, version)}", seen)
    return found


def live(place: Place) -> str | None:
    """The version that `current` names."""
    try:
        return os.path.basename(os.readlink(place.root / "current"))
    except OSError:
        return None
