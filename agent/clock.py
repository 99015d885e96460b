"""Time, as a parameter.

Everything that waits or stamps takes a `Clock`; a test hands in one that it moves by hand.
Durations come from `monotonic()`, so that a step of the wall clock never ends a lease or fires an
alert; `now()` is only for what a person or another program reads.
"""

from __future__ import annotations

import time
from typing import Protocol

from agent.units import Monotonic, Seconds, UnixTime


class Clock(Protocol):
    """What the program may ask of time."""

    def now(self) -> UnixTime:
        """The wall clock, in seconds since the epoch."""
        ...

    def monotonic(self) -> Monotonic:
        """A clock that only goes forward, in seconds."""
        ...

    async def sleep(self, duration: Seconds) -> None:
        """Wait for `duration` seconds without holding up the loop."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> UnixTime:
        return UnixTime(time.time())

    def monotonic(self) -> Monotonic:
        return Monotonic(time.monotonic())

    async def sleep(self, duration: Seconds) -> None:
        import asyncio  # 28 ms and 8 MiB that the init path, which never sleeps, need not pay

        await asyncio.sleep(max(0.0, duration))
