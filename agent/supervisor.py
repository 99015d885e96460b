"""Keep each job running without letting one take the others down.

A job that raises, or returns when it should run for ever, is started again after a delay that
doubles up to a minute, with jitter; a job that has run well for a while starts from the shortest
delay again. The other jobs never notice. What happened is kept for the status page.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from agent.clock import Clock
from agent.health import Condition, Job
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.telemetry.redaction import REDACTOR
from agent.units import Seconds, UnixTime

_log = get_logger(__name__)

FIRST_DELAY = Seconds(0.5)
LONGEST_DELAY = Seconds(60.0)
WELL_AFTER = Seconds(60.0)

State = Literal["running", "backoff", "stopped"]


@dataclass(slots=True)
class JobRecord:
    """What the supervisor knows of one job."""

    state: State
    since: UnixTime
    restarts: int = 0
    last_error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "restarts": self.restarts,
            "last_error": self.last_error,
            "since": self.since,
        }


def backoff(failures: int, roll: Callable[[], float]) -> Seconds:
    """Delay before start number `failures` + 1: doubled each time, at most a minute, half of it
    jittered by `roll` (a number in [0, 1))."""
    full = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))
    return Seconds(full * (0.5 + 0.5 * roll()))


class Supervisor:
    """Runs jobs as tasks of one loop."""

    def __init__(
        self, clock: Clock, recorder: Recorder, roll: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._recorder = recorder
        self._roll = roll
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._jobs: dict[str, Job] = {}
        self.records: dict[str, JobRecord] = {}

    def start(self, job: Job) -> None:
        """Run `job` until `stop`."""
        self._jobs[job.name] = job
        self.records[job.name] = JobRecord("running", self._clock.now())
        self._tasks[job.name] = asyncio.create_task(self._keep(job), name=f"job-{job.name}")

    async def stop(self, name: str) -> None:
        """Cancel the job and wait until it has let go; its `drain` runs afterwards."""
        task = self._tasks.pop(name, None)
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._mark(name, "stopped")
        try:
            await self._jobs[name].drain()
        except Exception:  # noqa: BLE001 - a drain that fails must not stop the others
            _log.exception("drain failed", job=name)

    def conditions(self) -> list[Condition]:
        """One condition a job. A crash alone does not gate readiness: what the trader needs is
        in the job's own conditions."""
        return [
            Condition(
                name=f"job-{name}",
                ok=record.state == "running",
                reason="running"
                if record.state == "running"
                else f"{record.state} after {record.restarts} restarts: {record.last_error}",
                remedy="" if record.state == "running" else "see the agent's log for the traceback",
                gates_ready=False,
            )
            for name, record in self.records.items()
        ]

    async def _keep(self, job: Job) -> None:
        failures = 0
        while True:
            started = self._clock.monotonic()
            self._mark(job.name, "running")
            try:
                await job.run()
                reason = "ended without being asked to"
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the job starts again
                reason = REDACTOR.scrub(f"{type(error).__name__}: {error}")
                _log.exception("job crashed", job=job.name)
            ran = self._clock.monotonic() - started
            failures = 1 if ran >= WELL_AFTER else failures + 1
            delay = backoff(failures, self._roll)
            record = self.records[job.name]
            record.restarts += 1
            record.last_error = reason
            self._mark(job.name, "backoff")
            self._recorder.inc("job_restarts_total", part=job.name)
            _log.warning("job will be started again", job=job.name, after_seconds=round(delay, 2))
            await self._clock.sleep(delay)

    def _mark(self, name: str, state: State) -> None:
        record = self.records[name]
        if record.state != state:
            record.state = state
            record.since = self._clock.now()
        self._recorder.set("job_up", 1.0 if state == "running" else 0.0, part=name)
