"""When the next message may go (a token bucket, the pause after a failure), and lateness. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agent.alerts.errors import DeliveryError
from agent.alerts.routing import Notification
from agent.units import Monotonic, Seconds

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
SHORTEST_PAUSE = 0.1
LATE = 60.0
"""Seconds after which what is told says how late it is."""


class TokenBucket:
    """At most `burst` at once and `per_second` in the long run."""

    def __init__(self, per_second: float, burst: int, now: Monotonic) -> None:
        self._rate = per_second
        self._burst = float(burst)
        self._tokens = self._burst
        self._at = now

    def wait(self, now: Monotonic) -> Seconds:
        """Seconds until one may go; 0 when it may now."""
        self._fill(now)
        return Seconds(0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self._rate)

    def take(self, now: Monotonic) -> None:
        """One goes."""
        self._fill(now)
        self._tokens -= 1.0

    def _fill(self, now: Monotonic) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate + 1e-9)
        self._at = now


def pause(error: DeliveryError, failures: int, roll: Callable[[], float]) -> Seconds:
    """How long to leave a destination alone after its `failures`-th failure in a row.

    What the receiver asked for is honoured, with up to a second more, so that many agents do not
    come back as one; else exponential backoff with full jitter, up to a minute. `roll` gives a
    number in [0, 1).
    """
    if error.retry_after is not None:
        return Seconds(error.retry_after + roll())
    full = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16))
    return Seconds(max(SHORTEST_PAUSE, full * roll()))


def late(told: Notification, age: Seconds) -> Notification:
    """`told`, marked as late when it has waited for more than a minute.

    Args:
        told: what goes out now.
        age: how long ago it was meant to go, in seconds.
    """
    if age <= LATE:
        return told
    by = f"{age / 60:.0f} min" if age < 7200 else f"{age / 3600:.1f} h"
    return replace(
        told,
        annotations={**told.annotations, "summary": f"[told {by} late] {told.summary}"},
        context={**told.context, "late": by},
    )
