"""Hold, freeze, pin: nothing goes forward while one is in force, and a way back stays open."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from agent import audit as audits
from agent.audit import AuditLog
from agent.bundles.errors import GateError
from agent.bundles.init import init_bundle
from agent.bundles.orders import Hold, Orders
from agent.clock import SystemClock
from agent.errors import UsageError
from agent.units import UnixTime, Version
from tests.bundles.agents import Place, ended, live, newest, until
from tests.bundles.made import published
from tests.faults.clock import FakeClock

ALWAYS = [
    {"name": "always", "zone": "UTC", "start": "00:00", "end": "12:00", "days": days}
    for days in (["mon", "tue", "wed", "thu", "fri", "sat", "sun"],)
] + [
    {
        "name": "always-too",
        "zone": "UTC",
        "start": "12:00",
        "end": "00:00",
        "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
    }
]


def link(place: Place) -> os.stat_result:
    return os.lstat(place.root / "current")


async def test_a_hold_keeps_the_link_where_it_is_through_a_restart_until_resume(
    place: Place,
) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        before = link(place)
        told = await job.keeping.hold(reason="results day", until=None, actor="operator")
        assert told["current"] == "v1"
        published(place.tmp, "v2", note="2")
        await until("the hold to be told", lambda: "results day" in (job.waiting or ""))
        for force in (False, True):
            with pytest.raises(GateError, match="results day"):
                await job.deploy("v2", source=None, actor="operator", force=force, hotfix="now")
    async with place.agent() as job:
        await until("the hold to be told", lambda: "results day" in (job.waiting or ""))
        assert job.snapshot()["hold"]["reason"] == "results day"
        held = [item for item in job.conditions() if item.name == "bundle-hold"]
        assert not held[0].ok
        assert not held[0].gates_ready
        after = link(place)
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert newest(job, "v2") is None
        await job.keeping.resume(actor="operator")
        job.look_soon()
        await ended(job, "v2", "ACTIVE")
        with pytest.raises(UsageError, match="nothing is held"):
            await job.keeping.resume(actor="operator")
    audits.verify(place.tmp / "state")
    log = (place.tmp / "state" / "audit.jsonl").read_text()
    assert '"action":"bundle.hold"' in log
    assert "results day" in log


async def test_a_hold_that_comes_while_a_rollout_is_before_its_flip_stops_the_flip(
    place: Place,
) -> None:
    assert place.metrics
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        place.metrics.age = None  # the gates wait for samples
        published(place.tmp, "v2", note="2")
        await until("the gates", lambda: (job.snapshot()["rollout"] or {}).get("step") == "gates")
        before = link(place)
        await job.keeping.hold(reason="stop", until=None, actor="operator")
        place.metrics.age = job.config.bake.interval
        entry = await ended(job, "v2", "FAILED")
        assert "stop" in entry["reason"]
        assert link(place).st_ino == before.st_ino
        assert job.snapshot()["quarantine"] == []


async def test_a_way_back_stays_open_under_a_hold_and_in_a_freeze(place: Place) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await ended(job, "v2", "ACTIVE")
        job.prepare(place.section(freeze=ALWAYS))()
        await job.keeping.hold(reason="stop", until=None, actor="operator")
        told = await job.rollback(None, actor="operator", reason="it is bad")
        assert (told["state"], live(place)) == ("ACTIVE", "v1")


async def test_a_freeze_window_stops_the_channel_and_a_deploy_but_not_a_hotfix(
    place: Place,
) -> None:
    published(place.tmp, "v1")
    place.options["freeze"] = ALWAYS
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")  # nothing was live: there was nothing to keep
        published(place.tmp, "v2", note="2")
        await until("the freeze to be told", lambda: "always" in (job.waiting or ""))
        with pytest.raises(GateError, match="always"):
            await job.deploy("v2", source=None, actor="operator", force=True)
        assert live(place) == "v1"
        told = await job.deploy(
            "v2", source=None, actor="operator", force=False, hotfix="risk limits are off"
        )
        assert (told["state"], told["why"]) == ("ACTIVE", "hotfix: risk limits are off")
    log = (place.tmp / "state" / "audit.jsonl").read_text()
    assert "hotfix: risk limits are off" in log


def test_a_hold_ends_by_itself_at_its_time_and_not_before(tmp_path: Path) -> None:
    clock = FakeClock()
    orders = Orders(tmp_path)
    end = UnixTime(clock.now() + 60)
    orders.place(Hold("wait", "operator", clock.now(), end))
    assert Orders(tmp_path).hold(UnixTime(end - 0.001)) is not None
    assert Orders(tmp_path).hold(end) is None


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"hold": 1, "pins": []}', b"\xff\x00"])
def test_orders_that_cannot_be_read_count_as_a_hold_until_somebody_resumes(
    tmp_path: Path, raw: bytes
) -> None:
    (tmp_path / "orders.json").write_bytes(raw)
    orders = Orders(tmp_path)
    hold = orders.hold(UnixTime(1.0))
    assert hold is not None
    assert "orders.json cannot be read" in hold.told()
    orders.resume()
    assert json.loads((tmp_path / "orders.json").read_bytes()) == {"hold": None, "pins": []}
    assert Orders(tmp_path).hold(UnixTime(1.0)) is None


async def test_init_in_a_new_pod_keeps_to_a_hold_unless_nothing_sound_is_live(
    place: Place,
) -> None:
    published(place.tmp, "v1")
    state = place.tmp / "state"
    state.mkdir()
    clock = SystemClock()
    Orders(state).place(Hold("wait", "operator", clock.now()))

    def init() -> str:
        audit = AuditLog(state)
        try:
            return init_bundle(
                place.section(),
                channel="test",
                manifest_required=True,
                state_dir=state,
                audit=audit,
                clock=clock,
            )
        finally:
            audit.close()

    assert await asyncio.to_thread(init) == "v1"
    published(place.tmp, "v2", note="2")
    assert await asyncio.to_thread(init) == "v1"
    Orders(state).resume()
    assert await asyncio.to_thread(init) == "v2"
    assert Version(live(place) or "") == "v2"
