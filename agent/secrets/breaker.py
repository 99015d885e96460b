"""A circuit breaker: after some failures in a row a provider is left alone for a while. Pure.

closed → open: `failures` in a row, or a server that named its own wait (Retry-After)
open → half-open: the rest is over; one call probes, all others are still refused
half-open → closed: the probe was answered; → open: it was not, and the rest doubles, with jitter
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Literal

from agent.clock import Clock
from agent.units import Monotonic, Seconds

State = Literal["closed", "open", "half-open"]


class Breaker:
    """For one provider. Safe from any thread."""

    def __init__(
        self,
        clock: Clock,
        *,
        failures: int,
        rest: Seconds,
        longest_rest: Seconds,
        roll: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._roll = clock, roll
        self._limit, self._first_rest, self._longest = failures, rest, longest_rest
        self._lock = threading.Lock()
        self._failed = 0
        self._rest = rest
        self._until: Monotonic | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """What the next call meets."""
        if self._until is None:
            return "closed"
        over = self._clock.monotonic() >= self._until
        return "half-open" if over or self._probing else "open"

    def allows(self) -> bool:
        """Whether a call may go out; a caller that is told yes reports how it went."""
        with self._lock:
            if self._until is None:
                return True
            if self._probing or self._clock.monotonic() < self._until:
                return False
            self._probing = True
            return True

    def answered(self) -> None:
        """The provider answered, be it with yes or no."""
        with self._lock:
            self._failed, self._rest = 0, self._first_rest
            self._until, self._probing = None, False

    def failed(self, times: int = 1, asked: Seconds | None = None) -> None:
        """The provider did not answer `times` calls; `asked` is the wait that it named."""
        with self._lock:
            was_open = self._until is not None
            self._failed += times
            if not (was_open or self._failed >= self._limit or asked):
                return
            rest = self._rest * (0.5 + 0.5 * self._roll())
            self._rest = Seconds(min(self._longest, self._rest * 2))
            self._until = Monotonic(self._clock.monotonic() + max(rest, asked or 0.0))
            self._probing = False
