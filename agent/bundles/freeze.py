"""Whether a freeze window is open: pure, by the exchange's own clock, daylight saving included.

A window belongs to the date on which it begins. What counts is the wall clock of its zone: it opens
at 09:30 in New York on both sides of a change of the clocks. The wall clock is right here, and only
here: a window is a thing of the world outside.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from agent.configrollouts import DAYS, FreezeWindow
from agent.units import UnixTime

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Frozen:
    """An open window and its end."""

    name: str
    until: UnixTime
    told: str


def frozen(windows: Iterable[FreezeWindow], now: UnixTime) -> Frozen | None:
    """The open window that ends last; None when none is open."""
    found = [item for window in windows if (item := _open(window, now)) is not None]
    return max(found, key=lambda item: item.until, default=None)


def _open(window: FreezeWindow, now: UnixTime) -> Frozen | None:
    from zoneinfo import ZoneInfo  # only whoever has a window pays for it

    zone = ZoneInfo(window.zone)
    local = dt.datetime.fromtimestamp(now, zone)
    for date in (local.date(), local.date() - _DAY):
        if DAYS[date.weekday()] not in window.days or date in window.holidays:
            continue
        end = window.early_ends.get(date, window.end)
        begins = dt.datetime.combine(date, window.start, zone)
        ends = dt.datetime.combine(date if end > window.start else date + _DAY, end, zone)
        if begins.timestamp() <= now < ends.timestamp():
            told = f"{window.name}: until {ends:%Y-%m-%d %H:%M} {window.zone}"
            return Frozen(window.name, UnixTime(ends.timestamp()), told)
    return None
