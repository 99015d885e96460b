"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from agent.units import Monotonic, Seconds, UnixTime


class FakeClock:
    """Wall and monotonic time under a test's hand. `advance` wakes sleepers in order."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        self._wall = now
        self._mono = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> UnixTime:
        return UnixTime(self._wall)

    def monotonic(self) -> Monotonic:
        return Monotonic(self._mono)

    async def sleep(self, duration: Seconds) -> None:
        if duration <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._mono + duration, next(self._order), future))
        await future

    def tick(self, seconds: float) -> None:
        """Move time without waking anyone: for code that only reads the clock."""
        self._wall += seconds
        self._mono += seconds

    def step_wall(self, seconds: float) -> None:
        """What an NTP step does: the wall jumps, the monotonic clock does not."""
        self._wall += seconds

    async def advance(self, seconds: float) -> None:
        """Move time on, waking each sleeper at its moment and letting it run."""
        end = self._mono + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self.tick(due - self._mono)
            if not future.done():
                future.set_result(None)
            await settle()
        self.tick(end - self._mono)
        await settle()


async def settle(rounds: int = 20) -> None:
    """Let every ready task run until it waits again."""
    for _ in range(rounds):
        await asyncio.sleep(0)
