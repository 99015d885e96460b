"""Notifications and small helpers that several of these tests need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from agent.alerts.routing import Notification
from agent.units import UnixTime

ROUTING_KEY = "0123456789abcdef0123456789abcdef"
HOOK_PATH = "/services/T0TEST/B0TEST/verysecretpathofthehook"


def notification(
    key: str = "jules-1", status: str = "firing", severity: str = "critical", **more: Any
) -> Notification:
    told: dict[str, Any] = {
        "name": "CriticalLatencyP99High",
        "value": 3.1e-5,
        "active_at": UnixTime(1_750_000_000.0),
        "fired_at": UnixTime(1_750_000_030.0),
        "resolved_at": UnixTime(1_750_000_095.0) if status == "resolved" else None,
        "labels": {"alertname": "CriticalLatencyP99High", "severity": severity, "service": "risk"},
        "annotations": {
            "summary": "P99 above 25 µs",
            "description": "orders are slow",
            "runbook_url": "https://runbooks.example/latency",
        },
        "context": {"environment": "test", "pod": "trader-0", "bundle": "v2025-07-08"},
        **more,
    }
    return Notification(status=status, severity=severity, dedup_key=key, **told)  # type: ignore[arg-type]


async def until(what: str, seen: Callable[[], Any], within: float = 20.0) -> Any:
    """The first true answer of `seen`."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if found := seen():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what}: not within {within} s")
