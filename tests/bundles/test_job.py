"""The agent's bundle job beside a real trader stub: what an operator lives through."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
import time
from typing import Any

import pytest

from agent import audit as audits
from agent.bundles.errors import GateError, RejectedError, RolloutError
from agent.bundles.job import BundlesJob
from agent.bundles.manifest import compose_manifest
from agent.bundles.model import FileEntry, State
from agent.bundles.stores.base import StoreFile
from agent.errors import AgentError, UsageError
from agent.units import Bytes, Digest, Seconds, Version
from tests.bundles.agents import FIRING, Place, ended, live, newest, until
from tests.bundles.made import ask_for, bundle, published


def previous(place: Place) -> str | None:
    try:
        return os.path.basename(os.readlink(place.root / "previous"))
    except OSError:
        return None


def states(job: BundlesJob, version: str) -> list[str]:
    return [item["state"] for item in job.snapshot()["history"] if item["version"] == version]


def steps(entry: dict[str, Any]) -> list[str]:
    return [f"{step['step']} {step['outcome']}" for step in entry["steps"]]


ALL = ["copy", "validate", "gates", "flip", "verify", "bake"]


async def test_a_published_version_goes_live_and_a_second_one_is_baked(place: Place) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        first = await ended(job, "v1", "ACTIVE")
        assert "bake" not in [step["step"] for step in first["steps"]]
        published(place.tmp, "v2", note="2")
        second = await ended(job, "v2", "ACTIVE")
        assert steps(second) == [f"{name} passed" for name in ALL]
        assert (second["from_version"], second["actor"]) == ("v1", "channel")
        assert (live(place), previous(place)) == ("v2", "v1")
        assert all(condition.ok for condition in job.conditions())
    assert audits.verify(place.tmp / "state") == 8  # four states each, each in the chain


async def test_the_store_s_watch_is_enough_without_the_poll(place: Place) -> None:
    place.options["store"] = {"path": place.tmp / "store", "poll": 600}
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        await until("the job to wait", lambda: job.desired is not None)
        published(place.tmp, "v2", note="2")
        await ended(job, "v2", "ACTIVE")


async def test_a_damaged_version_is_refused_banned_and_tried_only_once(place: Place) -> None:
    first = published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        damaged = published(place.tmp, "v2", "parked", note="2")
        path = place.tmp / "store" / "bundles" / "v2" / "metadata.json"
        good = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
        ask_for(place.tmp, damaged)
        entry = await ended(job, "v2", "FAILED")
        assert "metadata.json is not what its manifest says" in entry["reason"]
        assert steps(entry) == ["copy failed"]
        assert live(place) == "v1"
        await until("the ban to be told", lambda: "quarantine" in (job.waiting or ""))
        quarantine = job.snapshot()["quarantine"]
        assert [item["version"] for item in quarantine] == ["v2"]
        for _ in range(3):
            job._wake.set()
            await asyncio.sleep(0.1)
        assert states(job, "v2") == ["FAILED"]
        path.write_bytes(good)  # mended: a person's word lifts the ban
        told = await job.deploy("v2", source=None, actor="operator", force=False)
        assert told["state"] == "ACTIVE"
        assert job.snapshot()["quarantine"] == []
        assert first.version == previous(place)


async def test_a_broken_gate_during_the_bake_puts_the_old_version_back_at_once(
    place: Place,
) -> None:
    assert place.metrics
    place.bake = 60.0
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        seen = await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
        assert [gate["name"] for gate in seen["gates"]] == ["critical-alerts"]
        place.metrics.results = (FIRING,)
        entry = await ended(job, "v2", "ROLLED_BACK")
        assert entry["reason"] == "bake: critical-alerts: LatencyHigh"
        assert (live(place), previous(place)) == ("v1", None)
        place.metrics.results = ()
        for _ in range(3):
            job._wake.set()
            await asyncio.sleep(0.1)
        assert states(job, "v2") == ["ROLLED_BACK"], "the poll flipped a banned version again"
        assert json.dumps(job.snapshot())


@pytest.mark.parametrize("blindness", ["age", "error"])
async def test_a_bake_that_goes_blind_is_rolled_back(place: Place, blindness: str) -> None:
    assert place.metrics
    place.bake = 60.0
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
        if blindness == "age":
            place.metrics.age = Seconds(60.0)
        else:
            place.metrics.error = "the evaluator broke"
        entry = await ended(job, "v2", "ROLLED_BACK")
        assert "cannot be judged" in entry["reason"]


async def test_a_trader_that_falls_ill_during_the_bake_is_rolled_back(place: Place) -> None:
    place.bake = 60.0
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
        place.trader.indicators["risk_system_active"] = False
        entry = await ended(job, "v2", "ROLLED_BACK")
        assert "risk_system_active is false" in entry["reason"]


async def test_a_trader_that_does_not_take_the_version_up_is_rolled_back(place: Place) -> None:
    place.adopt = 0.3
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        place.trader.version = lambda: "v1"
        published(place.tmp, "v2", note="2")
        entry = await ended(job, "v2", "ROLLED_BACK")
        assert "reports v1 0.3 s after the flip" in entry["reason"]
        assert live(place) == "v1"


@pytest.mark.parametrize("what", ["trader", "secrets", "metrics", "disk"])
async def test_a_gate_that_says_not_now_stops_before_the_flip_and_is_asked_again(
    place: Place, what: str
) -> None:
    assert place.metrics
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        if what == "trader":
            place.trader.status = 503
        elif what == "secrets":
            place.secrets.reason = "database/main is stale"
        elif what == "metrics":
            place.metrics.results = (FIRING,)
        else:
            limits = {"headroom": 2**60}
            job.prepare(place.section(limits=limits))()
        published(place.tmp, "v2", note="2")
        entry = await ended(job, "v2", "FAILED")
        assert entry["steps"][-1]["step"] in ("gates", "copy")
        assert live(place) == "v1"
        place.trader.status, place.secrets.reason, place.metrics.results = 200, None, ()
        job.prepare(place.section())()
        await ended(job, "v2", "ACTIVE")


async def test_force_flips_over_an_alert_that_was_there_before_but_not_over_stale_secrets(
    place: Place,
) -> None:
    assert place.metrics
    published(place.tmp, "v1")
    published(place.tmp, "v2", "parked", note="2")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        place.metrics.results = (FIRING,)
        told = await job.deploy("v2", source=None, actor="operator", force=False)
        assert told["state"] == "FAILED"
        place.secrets.reason = "stale"
        told = await job.deploy("v2", source=None, actor="operator", force=True)
        assert (told["state"], told["reason"]) == ("FAILED", "secrets: stale")
        place.secrets.reason = None
        told = await job.deploy("v2", source=None, actor="operator", force=True)
        assert told["state"] == "ACTIVE"


async def test_a_person_s_deploy_stays_until_the_channel_asks_for_something_new(
    place: Place,
) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        source = bundle(place.tmp / "by-hand", "v9", note="9")
        with pytest.raises(RejectedError, match="no version name"):
            await job.deploy("../v9", source=source, actor="operator", force=False)
        told = await job.deploy("v9", source=source, actor="operator", force=False)
        assert "has no manifest" in told["reason"]  # this agent requires one
        published(place.tmp, "v2", "parked", note="2")
        told = await job.deploy("v2", source=None, actor="operator", force=False)
        assert (told["state"], told["actor"]) == ("ACTIVE", "operator")
        for _ in range(3):
            job._wake.set()
            await asyncio.sleep(0.1)
        assert live(place) == "v2"
    async with place.agent() as job:  # nor does a new process undo it
        await until("a look", lambda: job.waiting)
        await asyncio.sleep(0.3)
        assert live(place) == "v2"
        published(place.tmp, "v3", note="3")
        await ended(job, "v3", "ACTIVE")


async def test_a_rollback_bans_what_it_leaves_and_names_the_one_before(place: Place) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        with pytest.raises(RolloutError, match="no previous good version"):
            await job.rollback(None, actor="operator", reason="try")
        published(place.tmp, "v2", note="2")
        await ended(job, "v2", "ACTIVE")
        told = await job.rollback(None, actor="operator", reason="it feels wrong")
        assert (told["version"], told["state"]) == ("v1", "ACTIVE")
        assert (live(place), previous(place)) == ("v1", None)
        assert states(job, "v2") == ["ROLLED_BACK"]
        for _ in range(3):
            job._wake.set()
            await asyncio.sleep(0.1)
        assert live(place) == "v1"
        assert "it feels wrong" in job.snapshot()["quarantine"][0]["reason"]
        with pytest.raises(RejectedError, match="v7 is not there"):
            await job.rollback("v7", actor="operator", reason="?")


async def test_a_second_deploy_is_refused_and_a_rollback_ends_a_bake(place: Place) -> None:
    place.bake = 60.0
    published(place.tmp, "v1")
    published(place.tmp, "v3", "parked", note="3")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
        with pytest.raises(GateError, match=r"rollout of v2 is under way \(bake\)"):
            await job.deploy("v3", source=None, actor="operator", force=True)
        told = await job.rollback(None, actor="operator", reason="enough")
        assert (told["version"], told["state"], live(place)) == ("v1", "ACTIVE", "v1")
        assert states(job, "v2") == ["ROLLED_BACK"]


async def test_a_channel_that_moves_during_a_bake_supersedes_it_without_a_ban(
    place: Place,
) -> None:
    place.bake = 60.0
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        second = published(place.tmp, "v2", note="2")
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
        job.prepare(place.section(bake={"duration": 0.1, "interval": 0.02}))()
        published(place.tmp, "v3", note="3")
        entry = await ended(job, "v3", "ACTIVE")
        assert entry["from_version"] == "v1", "it must fall back to a version that was proven"
        old = newest(job, "v2")
        assert old is not None
        assert (old["state"], old["reason"]) == (
            "ROLLED_BACK",
            "superseded: the channel asks for v3 now",
        )
        assert job.snapshot()["quarantine"] == []
        ask_for(place.tmp, second)
        await ended(job, "v2", "ACTIVE")


async def test_a_bake_is_begun_anew_by_the_next_process(place: Place) -> None:
    assert place.metrics
    place.bake = 60.0
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
    async with place.agent() as job:
        seen = await until("a bake", lambda: job.snapshot()["rollout"])
        assert (seen["version"], seen["state"]) == ("v2", "DEPLOYING")
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
        place.metrics.results = (FIRING,)
        await ended(job, "v2", "ROLLED_BACK")
        assert live(place) == "v1"


async def test_a_stop_before_the_flip_leaves_nothing_and_the_next_process_goes_on(
    place: Place,
) -> None:
    assert place.metrics
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        place.metrics.age = None  # the gates wait for samples
        published(place.tmp, "v2", note="2")
        await until("the gates", lambda: (job.snapshot()["rollout"] or {}).get("step") == "gates")
    place.metrics.age = Seconds(0.1)
    async with place.agent() as job:
        await ended(job, "v2", "ACTIVE")
        first = job.snapshot()["history"][1]
        assert (first["version"], first["state"]) == ("v2", "FAILED")
        assert "before the flip" in first["reason"]


async def test_a_stop_does_not_wait_for_a_long_copy(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store gives bytes for as long as it is asked; only the stop ends the copy."""
    published(place.tmp, "v1")
    reading = threading.Event()

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            reading.set()
            time.sleep(0.001)
            return 1

    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        store = job.store
        assert store is not None
        files = [StoreFile(file.path, Bytes(2**30)) for file in store.files(Version("v1"))]
        monkeypatch.setattr(type(store), "files", lambda *_: files)
        monkeypatch.setattr(type(store), "open", lambda *_: Endless())
        sizes = [FileEntry(f.path, f.size, Digest("sha256:" + "0" * 64)) for f in files]
        raw = compose_manifest(Version("v2"), sizes).raw
        monkeypatch.setattr(type(store), "manifest", lambda *_: raw)
        monkeypatch.setattr(type(store), "signatures", lambda *_: None)
        asked = asyncio.create_task(job.deploy("v2", source=None, actor="operator", force=False))
        await until("the copy", reading.is_set)
    answers: list[Any] = await asyncio.gather(asked, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError | dict)
    assert os.listdir(place.root / ".staging") == ["lock"]
    assert live(place) == "v1"


async def test_a_way_back_that_was_only_written_down_is_finished_by_the_next_process(
    place: Place,
) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await ended(job, "v2", "ACTIVE")
        job.tools.history.transition(job.tools.history.recent()[0], State.ROLLED_BACK, "killed")
    ask_for(place.tmp, published(place.tmp, "v1"))
    async with place.agent() as job:
        await until("the way back", lambda: live(place) == "v1")


async def test_a_current_that_somebody_moves_is_noticed_recorded_and_left(place: Place) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await ended(job, "v2", "ACTIVE")
        other = place.root / "by-hand"
        other.symlink_to("bundles/v1")
        other.replace(place.root / "current")
        job._wake.set()
        await until("it to be noticed", lambda: job.snapshot()["history"][0]["actor"] == "outside")
        await asyncio.sleep(0.5)
        assert live(place) == "v1"


async def test_a_current_that_leads_nowhere_is_put_right_while_running(place: Place) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        (place.root / "current").unlink()
        job._wake.set()
        await until("a repair", lambda: live(place) == "v1")


async def test_a_first_version_that_is_not_sound_after_its_flip_is_taken_away(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsound(*_arguments: object) -> None:
        raise RejectedError("v1/policy.pt is not what its manifest says")

    monkeypatch.setattr("agent.bundles.rollout.verify", unsound)
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ROLLED_BACK")
        assert live(place) is None
        assert not next(c for c in job.conditions() if c.name == "bundle-live").ok


async def test_a_store_that_goes_away_leaves_the_agent_ready(place: Place) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        (place.tmp / "store").rename(place.tmp / "gone")
        job._wake.set()
        await until("it to be told", lambda: not job.snapshot()["store"]["reachable"])
        found = {condition.name: condition for condition in job.conditions()}
        assert found["bundle-live"].ok
        assert not found["bundle-store"].ok
        assert not found["bundle-store"].gates_ready
        (place.tmp / "gone").rename(place.tmp / "store")
        job._wake.set()
        await until("the store to answer", lambda: job.snapshot()["store"]["reachable"])
        published(place.tmp, "v2", note="2")
        await ended(job, "v2", "ACTIVE")


async def test_without_the_alerts_job_the_bake_says_that_health_alone_judged_it(
    place: Place,
) -> None:
    place.metrics = None
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        entry = await ended(job, "v2", "ACTIVE")
        assert "health alone" in entry["steps"][-1]["detail"]


async def test_a_reload_refuses_another_root_and_a_gate_that_cannot_be_evaluated(
    place: Place,
) -> None:
    async with place.agent() as job:
        with pytest.raises(UsageError, match="root cannot change"):
            job.prepare(place.section(root=place.tmp / "elsewhere"))
        bad = {"gates": [{"name": "x", "expr": "nonsense("}]}
        with pytest.raises(AgentError, match="nonsense"):
            job.prepare(place.section(bake=bad))


async def test_the_live_version_is_in_the_metrics_and_the_earlier_one_is_not(
    place: Place,
) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await ended(job, "v2", "ACTIVE")
        recorder: Any = job.tools.recorder

        def told() -> bool:
            text = recorder.text().decode()
            return 'bundle_info{version="v2"} 1.0' in text and 'version="v1"' not in text

        await until("the metrics", told)
        text = recorder.text().decode()
        assert 'jules_agent_bundle_rollouts_total{outcome="active"} 2.0' in text
        assert 'jules_agent_bundle_step_seconds_count{step="bake"} 1.0' in text
