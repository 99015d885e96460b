"""A marked test through the whole way of a page: outbox, sender, receiver; what it said, how soon.

The test is queued as any notification is, so that it proves disk, credential, network, receiver and
pace; then its resolve follows, so that nothing stays open there.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.alerts.outboxrows import Item
from agent.alerts.routing import Notification
from agent.clock import Clock
from agent.errors import UsageError
from agent.units import Seconds

if TYPE_CHECKING:
    from agent.alerts.engine import AlertsJob

WITHIN = Seconds(20.0)
_LOOK_EVERY = Seconds(0.02)


async def send_test(
    job: AlertsJob, clock: Clock, arguments: Mapping[str, Any], environment: str, pod: str
) -> dict[str, Any]:
    """Send a test to `destination` and wait up to `WITHIN` seconds for its answer.

    Returns `destination`, `accepted`, `seconds` (from queueing to acceptance), `attempts` and
    `error`. One that is not accepted in time stays queued, as any page would.

    Raises:
        UsageError: no such destination is configured.
    """
    name = arguments.get("destination")
    if not isinstance(name, str) or name not in job.senders:
        known = ", ".join(sorted(job.senders)) or "none is configured"
        raise UsageError(f"no destination is called {name!r}", f"there are: {known}")
    now = clock.now()
    test = Notification(
        status="firing",
        name="Test",
        severity="info",
        dedup_key=f"jules-test-{secrets.token_hex(16)}",
        value=None,
        active_at=now,
        fired_at=now,
        labels={"alertname": "Test", "severity": "info"},
        annotations={
            "summary": f"[TEST] jules-agent {pod} ({environment}) reaches this destination",
            "description": "Sent by `jules-agent alerts test`. Nothing is wrong.",
        },
        context={"environment": environment, "pod": pod},
    )
    began = clock.monotonic()
    item = await _queue(job, name, test)
    end = await _end(job, clock, item)
    took = clock.monotonic() - began
    await _queue(job, name, replace(test, status="resolved", resolved_at=clock.now()))
    return {
        "destination": name,
        "accepted": end == "accepted",
        "end": end or "waiting",
        "seconds": round(took, 3),
        "attempts": item.attempts,
        "error": None if end == "accepted" else item.last_error,
    }


async def _queue(job: AlertsJob, name: str, notification: Notification) -> Item:
    item = job.outbox.add(name, notification, notification.fired_at)
    assert item is not None  # its key is new, or it is the first resolve
    await job.outbox.flush()
    job.senders[name].wake()
    return item


async def _end(job: AlertsJob, clock: Clock, item: Item) -> str | None:
    """How the item ended; None when it still waits after `WITHIN`."""
    deadline = clock.monotonic() + WITHIN
    while clock.monotonic() < deadline:
        rows = job.db.query("SELECT end, last_error FROM outbox WHERE id = ?", (item.id,))
        if rows and rows[0]["end"]:
            item.last_error = rows[0]["last_error"]
            return str(rows[0]["end"])
        await clock.sleep(_LOOK_EVERY)
    return None
