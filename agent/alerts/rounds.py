"""Rounds of scrapes, and the two schedules that they follow.

The whole scrape of every target is a round, made each `interval`; the fast lanes of all targets are
another, made each `fast_interval`. A round's rules are judged once its first answer is in and the
others have had a moment more; each answer that comes later has them judged again. So a target that
hangs delays nobody else's page, and its own by nothing but its own time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from agent.alerts.births import counters
from agent.alerts.lanes import Lane
from agent.alerts.timeline import Timeline
from agent.clock import Clock
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Seconds, UnixTime

if TYPE_CHECKING:
    from agent.alerts.engine import AlertsJob

_log = get_logger(__name__)

PATIENCE = 0.05
"""Seconds that targets of a round are given after the first of them has answered."""


class Rounds:
    """The rounds of one job."""

    def __init__(self, job: AlertsJob, recorder: Recorder, clock: Clock) -> None:
        self._job = job
        self._recorder = recorder
        self._clock = clock

    async def run(
        self, whole: Timeline, fast: Timeline, tick: Callable[[UnixTime], Awaitable[None]]
    ) -> None:
        """Follow both schedules until cancelled; `tick` is a whole round and what belongs to it."""
        await together(
            follow(whole, self._clock, self._recorder, tick),
            follow(fast, self._clock, self._recorder, self.fast),
        )

    async def whole(self, at: UnixTime) -> None:
        """Scrape every target, and have everything judged that its fast lane does not judge."""
        job = self._job
        async with aclosing(arrivals([s.scrape(at) for s in job.scrapers.values()])) as times:
            async for late in times:
                fast = [scraper.fast.live for scraper in job.scrapers.values()]
                lane: Lane = "slow" if job.judge.fast_names and fast and all(fast) else "all"
                if late is None:
                    await job.decide(at, lane)
                else:
                    await job.decide(UnixTime(at + late), lane, again=at)

    async def fast(self, at: UnixTime) -> None:
        """Scrape what critical rules look at alone, and have the rules judged that need no more."""
        lanes = [s.fast for s in self._job.scrapers.values() if s.fast.wanted]
        if not lanes:
            return
        async with aclosing(arrivals([lane.scrape(at) for lane in lanes])) as times:
            async for late in times:
                if any(lane.live for lane in lanes):
                    await self._job.decide(UnixTime(at + (late or 0.0)), "fast")

    def divide(self) -> None:
        """Tell store and targets what belongs on the fast lane, as rules and configuration say."""
        job = self._job
        zeros = counters(job.judge.critical_names) if job.config.zero_samples else frozenset[str]()
        job.store.watch_births(zeros | counters(job.own.names))
        deadline = Seconds(min(job.config.timeout, job.config.fast_interval))
        for scraper in job.scrapers.values():
            names = job.judge.fast_names
            scraper.fast.ask_for(names, bool(zeros), deadline, job.config.max_body)


async def arrivals(
    scrapes: Sequence[Coroutine[Any, Any, None]],
) -> AsyncGenerator[float | None, None]:
    """Run `scrapes` at once. Yields when it is time to judge: None first, then, for what came late,
    how many seconds after the beginning. Nothing runs on when the caller goes away."""
    began = time.monotonic()
    tasks = [asyncio.ensure_future(scrape) for scrape in scrapes]
    judged = False
    try:
        waiting = set(tasks)
        while waiting:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                _, waiting = await asyncio.wait(waiting, timeout=PATIENCE)
            yield time.monotonic() - began if judged else None
            judged = True
        if not tasks:
            yield None
        for task in tasks:
            await task
    finally:
        for task in tasks:
            task.cancel()


async def follow(
    timeline: Timeline,
    clock: Clock,
    recorder: Recorder,
    work: Callable[[UnixTime], Awaitable[None]],
) -> None:
    """Do `work` at each tick of `timeline`, until cancelled; what it raises ends it."""
    while True:
        await work(timeline.stamp())
        wait, skipped = timeline.advance()
        if skipped:
            recorder.inc("alert_ticks_skipped_total", skipped)
            _log.warning("evaluation takes longer than its interval", skipped=skipped)
        await clock.sleep(wait)


async def together(*loops: Coroutine[Any, Any, None]) -> None:
    """Run loops that never end until one fails or the caller is cancelled; then none runs on."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
