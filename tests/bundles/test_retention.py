"""What leaves the disk, and that no reader ever loses a version under its feet."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import reader
from agent.bundles.errors import GateError
from agent.bundles.flip import forward
from agent.bundles.layout import Layout
from agent.bundles.retention import Facts, delete, leased, plan, take_away
from agent.configrollouts import Retention
from agent.units import UnixTime, Version
from tests.bundles.agents import Place, ended, until
from tests.bundles.made import V1, V2, V3, published, staged
from tests.faults.killpoints import kill_everywhere
from tests.faults.trader import TraderStub

NAMES = [Version(f"v{number}") for number in range(8)]
HOUR = 3600.0


def facts(
    used: dict[Version, float],
    *,
    good: tuple[Version, ...] = (),
    quarantined: tuple[Version, ...] = (),
    protected: tuple[Version, ...] = (),
) -> Facts:
    times = {version: UnixTime(at) for version, at in used.items()}
    return Facts(sorted(used), times, good, quarantined, protected)


def test_the_newest_good_ones_stay_and_a_failed_one_takes_nobody_s_place() -> None:
    used = {version: float(number) for number, version in enumerate(NAMES)}
    good = tuple(version for version in NAMES if version != "v6")  # v6 failed its gates
    going = plan(Retention(keep=3, hours=0), facts(used, good=good), UnixTime(1e6))
    assert going == ["v0", "v1", "v2", "v3", "v6"]


def test_what_was_used_lately_and_evidence_stay_for_their_hours() -> None:
    now = UnixTime(1000 * HOUR)
    used = {V1: now - 30 * HOUR, V2: now - 30 * HOUR, V3: now - 1 * HOUR}
    rules = Retention(keep=2, hours=2, evidence_hours=48)
    seen = facts(used, quarantined=(V2,), good=())
    assert plan(rules, seen, now) == [V1]
    later = UnixTime(now + 20 * HOUR)
    assert plan(rules, seen, later) == [V1, V2, V3]


@given(
    used=st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1e5), min_size=1),
    keep=st.integers(2, 8),
    hours=st.floats(0, 50),
    good=st.sets(st.sampled_from(NAMES)),
    protected=st.sets(st.sampled_from(NAMES)),
)
def test_no_plan_takes_what_is_protected_young_or_among_the_newest_good_ones(
    used: dict[Version, float],
    keep: int,
    hours: float,
    good: set[Version],
    protected: set[Version],
) -> None:
    now = UnixTime(1e5)
    seen = facts(used, good=tuple(good), protected=tuple(protected))
    going = plan(Retention(keep=keep, hours=hours), seen, now)
    assert not protected & set(going)
    assert all(now - used[version] >= hours * HOUR for version in going)
    stay_good = [v for v in used if v in good and v not in going]
    assert len(stay_good) >= min(keep, sum(v in good for v in used)) - len(protected)


def test_a_leased_version_stays_until_its_reader_leaves(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "models")
    staged(tmp_path, layout, V1, V2)
    forward(layout, V1)
    with reader.open_bundle(layout.root) as bundle:
        forward(layout, V2)
        layout.previous.unlink()
        assert leased(layout, V1)
        assert take_away(layout, V1) is None
        assert bundle.read("config.yaml")
    taken = take_away(layout, V1)
    assert taken is not None
    assert layout.versions() == [V2]
    assert taken.size > 0
    delete(taken)
    assert os.listdir(layout.staging) == ["lock"]


def test_current_and_previous_are_never_taken_whatever_the_plan_says(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "models")
    staged(tmp_path, layout, V1, V2)
    forward(layout, V1)
    forward(layout, V2)
    assert take_away(layout, V1) is None
    assert take_away(layout, V2) is None
    assert take_away(layout, V3) is None  # not there at all
    assert layout.versions() == [V1, V2]


@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_a_collection_leaves_a_version_whole_or_gone(
    tmp_path: Path, after: bool
) -> None:
    from agent.bundles.flip import reconcile

    number = iter(range(10**6))

    def prepare() -> Layout:
        place = tmp_path / str(next(number))
        layout = Layout(place / "models")
        place.mkdir()
        staged(place, layout, V1, V2)
        forward(layout, V2)
        return layout

    def work(layout: Layout) -> None:
        taken = take_away(layout, V1)
        assert taken is not None
        delete(taken)

    kills = 0
    for layout in kill_everywhere(prepare, work, after=after):
        kills += 1
        reconcile(layout, [V2], adopt=False)
        assert layout.live() == V2
        assert layout.flaw(V2) is None
        assert V1 not in layout.versions() or layout.flaw(V1) is None
        assert os.listdir(layout.staging) == ["lock"]
    assert kills > 10


# -- the job ------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    trader = TraderStub()
    made = Place(tmp_path, trader, bake=0.0)
    trader.version = lambda: os.path.basename(os.readlink(made.root / "current"))
    yield made
    trader.close()


async def test_the_job_keeps_as_many_as_it_is_told_and_every_pinned_one(place: Place) -> None:
    place.options["retention"] = {"keep": 2, "hours": 0, "evidence_hours": 0}
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        await job.keeping.pin("v1", pinned=True, actor="operator")
        for number in range(2, 6):
            published(place.tmp, f"v{number}", note="x" * number)
            await ended(job, f"v{number}", "ACTIVE")
        await until("the collection", lambda: job.tools.layout.versions() == ["v1", "v4", "v5"])
        await job.keeping.pin("v1", pinned=False, actor="operator")
        told = await job.keeping.collect(dry_run=True, wanted=None)
        assert [item["version"] for item in told["would_remove"]] == ["v1"]
        assert told["bytes"] > 0
        assert "v1" in job.tools.layout.versions()
        told = await job.keeping.collect(dry_run=False, wanted=None)
        assert [item["version"] for item in told["removed"]] == ["v1"]
        assert job.tools.layout.versions() == ["v4", "v5"]
        back = await job.rollback(None, actor="operator", reason="?")
        assert (back["version"], back["state"]) == ("v4", "ACTIVE")


async def test_no_collection_while_a_rollout_is_under_way(place: Place) -> None:
    assert place.metrics
    place.bake = 60.0
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
        with pytest.raises(GateError, match="rollout of v2"):
            await job.keeping.collect(dry_run=False, wanted=None)


async def test_too_little_room_says_what_a_collection_would_free(place: Place) -> None:
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        job.prepare(place.section(limits={"headroom": 2**60}))()
        published(place.tmp, "v2", note="2")
        entry = await ended(job, "v2", "FAILED")
        assert "`bundle gc` would free 0" in entry["reason"]


# -- readers while versions are flipped away and deleted ------------------------------------------

_READER = textwrap.dedent(
    """
    import os, sys
    from agent.reader import open_bundle

    root, stop = sys.argv[1:]
    reads = mixed = missing = 0
    seen = set()
    print("reading", flush=True)
    while not os.path.exists(stop):
        try:
            with open_bundle(root) as bundle:
                parts = {bundle.read(name) for name in ("a", "b", "c")}
                parts.add(bundle.version.encode())
        except OSError as error:
            missing += 1
            print(error, file=sys.stderr)
            continue
        reads += 1
        mixed += len(parts) != 1
        seen |= parts
    print(reads, mixed, missing, len(seen))
    """
)


def make(layout: Layout, name: str) -> Version:
    fresh = layout.staging / name
    fresh.mkdir()
    for path in ("a", "b", "c"):
        (fresh / path).write_text(name)
    os.rename(fresh, layout.folder(Version(name)))
    return Version(name)


def test_readers_see_no_mixture_and_miss_nothing_while_versions_are_deleted_behind_them(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path / "models")
    layout.prepare()
    stop = tmp_path / "stop"
    make(layout, "v0")
    layout.current.symlink_to("bundles/v0")
    command = [sys.executable, "-c", _READER, str(layout.root), str(stop)]
    readers = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        for _ in range(3)
    ]
    removed = 0
    try:
        for process in readers:
            assert process.stdout is not None
            assert process.stdout.readline() == "reading\n"
        for number in range(1, 1500):
            version = make(layout, f"v{number}")
            link = layout.root / f".new-{number}"
            link.symlink_to(f"bundles/{version}")
            link.replace(layout.current)
            for old in layout.versions():  # all but the live one: harsher than any setting
                taken = None if old == version else take_away(layout, old)
                if taken is not None:
                    removed += 1
                    delete(taken)
    finally:
        stop.touch()
        told = [process.communicate(timeout=30) for process in readers]
    for out, errors in told:
        reads, mixed, missing, seen = map(int, out.split())
        assert (mixed, missing) == (0, 0), errors
        assert reads > 100
        assert seen > 2, "this reader saw no flips, so it proved nothing"
    assert removed > 1000
