"""What the story reads to know that a step has happened: the agent's status, the receiver's inbox,
the links on disk. Only reads; every wait has a deadline."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from agent.demo.stage import Stage, get

T = TypeVar("T")


class NotHappenedError(Exception):
    """A step's condition did not come true in time; the message says what was last seen."""


def until(
    stage: Stage, within: float, what: str, seen: Callable[[], T | None], every: float = 0.1
) -> T:
    """Ask `seen` until it gives something.

    Raises:
        NotHappenedError: nothing within `within` seconds, or a program of the stage died.
    """
    deadline = time.monotonic() + within
    while True:
        found = seen()
        if found is not None:
            return found
        if dead := stage.dead():
            raise NotHappenedError(f"{dead} while waiting for {what}")
        if time.monotonic() > deadline:
            raise NotHappenedError(f"{what}: not within {within:.0f} s")
        time.sleep(every)


def link(path: Path) -> str | None:
    """The last component of where `path` points, such as `v2025-07-06`."""
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


class Watch:
    """The three addresses, read as the story needs them."""

    def __init__(self, agent: str, trader: str, receiver: str) -> None:
        self.agent, self.trader, self.receiver = agent, trader, receiver

    def status(self) -> dict[str, Any]:
        """The agent's status; empty while it does not answer."""
        return get(f"{self.agent}/api/v1/status") or {}

    def health(self) -> dict[str, Any]:
        """The trader's own health; empty while it does not answer."""
        return get(f"{self.trader}/health") or {}

    def alert(self, name: str, state: str | None = None) -> dict[str, Any] | None:
        """The alert of that name, if it is in `state` (any: pending or firing)."""
        alerts = (self.status().get("alerts") or {}).get("alerts", [])
        for alert in alerts:
            if alert["name"] == name and state in (None, alert["state"]):
                return dict(alert)
        return None

    def rollout(self, version: str, *states: str) -> dict[str, Any] | None:
        """The newest rollout of `version` in the history that is in one of `states`."""
        history = (self.status().get("bundles") or {}).get("history", [])
        for entry in history:
            if entry["version"] == version:
                return dict(entry) if str(entry["state"]).upper() in states else None
        return None

    def page(self, alert: str, action: str, after: float) -> dict[str, Any] | None:
        """What PagerDuty's stand-in received about `alert` since `after`."""
        for event in (get(f"{self.receiver}/events") or {}).get("events", []):
            body = event["body"]
            if (
                event["service"] == "pagerduty"
                and event["received_at"] >= after
                and body.get("event_action") == action
                and alert in json.dumps(body)
            ):
                return dict(event)
        return None

    def received(self) -> dict[str, int]:
        """How many events each service received."""
        counts: dict[str, int] = {}
        for event in (get(f"{self.receiver}/events") or {}).get("events", []):
            counts[event["service"]] = counts.get(event["service"], 0) + 1
        return counts


def steps_text(rollout: Mapping[str, Any]) -> str:
    """`validate 3 ms, copy 5 ms, …` of a rollout in the history."""
    from agent.demo.narrator import took

    return ", ".join(
        f"{step['step']} {took(step['seconds'])}"
        for step in rollout["steps"]
        if step["seconds"] is not None and step["step"] != "bake"
    )


def weight(pid: int) -> tuple[float, float]:
    """Resident MiB of a process now, and the CPU seconds it has used so far (proc(5))."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    cpu = (int(fields[11]) + int(fields[12])) / ticks
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20, cpu
