"""The ledger tells of each alert when it fired, was queued, was accepted, was resolved."""

from __future__ import annotations

from pathlib import Path

from agent.alerts.ledger import Ledger
from agent.alerts.outbox import Outbox
from agent.state import StateDB
from agent.units import UnixTime
from tests.alerts.made import notification
from tests.faults.clock import FakeClock

T0 = 1_750_000_000.0


async def test_a_trigger_and_its_resolve_are_one_entry_and_the_next_trigger_another(
    tmp_path: Path,
) -> None:
    clock = FakeClock(T0)
    db = StateDB(tmp_path / "state.db", clock)
    box = Outbox(db, clock, 100)
    ledger = Ledger(db, box)
    assert ledger.entries(["pagerduty"]) == []

    async def told(status: str, at: float, wrong: int = 0) -> None:
        box.add("pagerduty", notification("k", status), UnixTime(T0 + at))
        await box.flush()
        (item,) = box.heads("pagerduty")
        for _ in range(wrong):
            box.failed(item, "answered 503", UnixTime(T0 + at + 1))
            await box.flush()
        await clock.advance(2.0)
        box.accepted(item)
        await box.flush()

    await told("firing", 0.0, wrong=2)
    (entry,) = ledger.entries(["pagerduty"])
    assert entry["name"] == "CriticalLatencyP99High"
    assert entry["trigger"]["attempts"] == 3
    assert entry["trigger"]["end"] == "accepted"
    assert entry["trigger"]["last_error"] == "answered 503"
    assert entry["delivery_seconds"] == 2.0
    assert entry["resolve"] is None
    await told("resolved", 2.0)
    (entry,) = ledger.entries(["pagerduty"])
    assert entry["resolve"]["end"] == "accepted"
    box.add("pagerduty", notification("k"), UnixTime(T0 + 9))
    await box.flush()
    newest, oldest = ledger.entries(["pagerduty"])
    assert newest["trigger"]["end"] is None
    assert oldest["resolve"] is not None
    box.close()
    db.close()
