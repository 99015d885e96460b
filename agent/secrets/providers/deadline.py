"""How long a call may still take, as one number that travels with it.

A deadline is a point on the monotonic clock, so that what was spent on name look-up, connection and
a slow first byte is gone for what follows. It bounds real waiting on sockets, hence the machine's
own clock.
"""

from __future__ import annotations

import time

from agent.units import Seconds


class Deadline:
    """A moment after which nobody waits any more."""

    __slots__ = ("_at",)

    def __init__(self, within: Seconds) -> None:
        self._at = time.monotonic() + within

    def left(self) -> Seconds:
        """Seconds that remain; zero or less when it is over."""
        return Seconds(self._at - time.monotonic())

    def sooner(self, within: Seconds) -> Deadline:
        """This deadline, or `within` seconds from now, whichever comes first."""
        return Deadline(Seconds(min(self.left(), within)))
