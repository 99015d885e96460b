"""Groups of alerts, and their timers. Pure.

The first new alert of a group waits `wait` for others; the next ones until `interval` after the
group was last told. Times are monotonic; a restart begins them anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.units import Seconds

_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Group:
    """Where an alert waits for others. `key` is the same for all of a group."""

    key: str
    wait: Seconds
    interval: Seconds


class GroupTimers:
    """When the groups of each destination may be told."""

    def __init__(self) -> None:
        self._due: dict[tuple[str, str], float] = {}
        self._told: dict[tuple[str, str], float] = {}

    def due(self, destination: str, group: Group, now: float) -> float:
        """When an alert that is new now may go: with those that wait, else by the timers."""
        key = (destination, group.key)
        due = self._due.get(key, 0.0)
        if due > now:
            return due
        told = self._told.get(key)
        until = now + group.wait
        if told is not None and now - told < group.interval:
            until = told + group.interval
        for table in (self._due, self._told):
            if len(table) >= _MOST:
                table.clear()
        self._due[key] = until
        return until

    def told(self, destination: str, group: str, now: float) -> None:
        """A message about the group was accepted."""
        self._told[(destination, group)] = now
