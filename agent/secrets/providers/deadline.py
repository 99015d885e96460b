"""How long a call may still take, as one number that travels with it.

A deadline is a point on the monotonic clock, so that what was spent on name look-up, connection and
a slow first byte is gone for what follows. It bounds real waiting on sockets, hence the machine's
own clock.
"""

from __future__ import annotations

import threading
import time

from agent.secrets.errors import UnavailableError
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


class Held:
    """A lock, waited for no longer than a deadline; `what` is under way while another holds it.

    Raises:
        UnavailableError: it was not to be had in time.
    """

    __slots__ = ("_deadline", "_lock", "_what")

    def __init__(self, lock: threading.Lock, deadline: Deadline, what: str) -> None:
        self._lock, self._deadline, self._what = lock, deadline, what

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=max(0.0, self._deadline.left())):
            raise UnavailableError(
                f"{self._what} is still under way", "it is tried again by itself"
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()
