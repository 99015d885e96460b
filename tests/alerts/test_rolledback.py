"""A rollback is told the way of every alert: both versions, the reason, once, and its end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.alerts.rolledback import RolledBack
from tests.alerts.test_engine import Bench
from tests.faults.receiver import FaultyReceiver


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    with FaultyReceiver() as target, FaultyReceiver() as receiver:
        made = Bench(tmp_path, target, receiver)
        try:
            yield made
        finally:
            await made.stop()


async def test_a_rollback_names_both_versions_and_the_reason_and_ends_when_one_is_kept(
    bench: Bench,
) -> None:
    job = bench.start(slack=bench.slack(), pagerduty=None)
    told = RolledBack(job, bench.clock)
    told.rolled_back("v9", "v8", "bake: critical-alerts: LatencyHigh", "channel")
    await bench.ticks(0)
    await bench.delivered()
    (message,) = [json.dumps(item) for item in bench.receiver.accepted]
    for part in ("v9", "v8", "critical-alerts: LatencyHigh", "BundleRolledBack"):
        assert part in message
    await bench.ticks(1)
    await bench.delivered()
    assert len(bench.receiver.accepted) == 1, "told twice"
    told.went_live("v10")
    told.went_live("v11")
    await bench.ticks(2)
    await bench.delivered()
    assert len(bench.receiver.accepted) == 2
    assert "resolved" in json.dumps(bench.receiver.accepted[1]).lower()
