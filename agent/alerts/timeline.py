"""When the ticks are, and what time the samples of each are stamped with.

The ticks lie on a fixed schedule of the monotonic clock, so that neither a slow tick nor a step of
the wall clock moves those after it; a tick whose time has passed while another was under way is
skipped and counted. Stamps are UNIX times read from the wall clock once, at the start, and carried
on by the monotonic clock: a step of the wall clock fires no alert and loses no window. A tick that
starts within a tenth of the interval of its place is stamped with its place, so that thirty ticks
are thirty intervals exactly.
"""

from __future__ import annotations

import math

from agent.clock import Clock
from agent.units import Seconds, UnixTime

_ALIGNED = 0.1


class Timeline:
    """The schedule of one run."""

    def __init__(self, clock: Clock, interval: Seconds, beside: Timeline | None = None) -> None:
        """`beside`: another schedule whose stamps these are to agree with."""
        self._clock = clock
        self.offset: Seconds = beside.offset if beside else Seconds(clock.now() - clock.monotonic())
        self._origin = clock.monotonic()
        self._number = 0
        self.interval = interval

    def now(self) -> UnixTime:
        """The present, in stamps."""
        return UnixTime(round(self._clock.monotonic() + self.offset, 3))

    def stamp(self) -> UnixTime:
        """The time of the tick that starts now."""
        place = self._place()
        late = self._clock.monotonic() - place
        if 0 <= late < _ALIGNED * self.interval:
            return UnixTime(round(place + self.offset, 3))
        return self.now()

    def advance(self) -> tuple[Seconds, int]:
        """Go to the next tick: how long until it, and how many were skipped."""
        self._number += 1
        late = self._clock.monotonic() - self._place()
        skipped = max(0, math.floor(late / self.interval))
        self._number += skipped
        return Seconds(max(0.0, self._place() - self._clock.monotonic())), skipped

    def change(self, interval: Seconds) -> None:
        """Another interval from now on; stamps go on as they were."""
        self.interval = interval
        self._origin = self._clock.monotonic()
        self._number = 0

    def _place(self) -> float:
        return self._origin + self._number * self.interval
