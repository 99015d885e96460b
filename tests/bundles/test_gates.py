"""Gates that judge a value: absolute bounds, the reading before the flip, and what is no number."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.bundles.bake import BakeWatch, Verdict
from agent.bundles.gates import Look, baseline, unjudged
from agent.configrollouts import Bake, BakeGate
from agent.gates import Result
from agent.units import Monotonic, Seconds
from tests.bundles.agents import Place, ended, until
from tests.bundles.made import published
from tests.faults.trader import TraderStub


def look(*values: float, before: float | None = None, **bounds: float) -> Look:
    results = tuple(Result({"pod": str(number)}, value) for number, value in enumerate(values))
    gate = BakeGate(name="latency", expr="x", **bounds)
    return Look(gate, results, Seconds(0.1), before=before)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (look(5.0, max=5), None),
        (look(5.1, max=5), "5.1 is above 5"),
        (look(1.0, 9.0, max=5), "9 is above 5"),
        (look(4.9, 6.0, min=5), "4.9 is below 5"),
        (look(math.nan, max=5), "not a number"),
        (look(1.0, math.nan, max=5), "not a number"),
        (look(math.inf, max=5), "inf is above 5"),
        (look(12.0, before=10.0, max_increase=2), None),
        (look(12.1, before=10.0, max_increase=2), "2 above the 10 from before the flip"),
        (look(15.1, before=10.0, max_ratio=1.5), "1.5 times the 10 from before the flip"),
        (look(0.0, before=0.0, max_ratio=1.5), None),
        (look(1.0, 2.0), "latency: {pod"),
    ],
)
def test_what_breaks_a_gate(seen: Look, told: str | None) -> None:
    breach = seen.breach()
    if told is None:
        assert breach is None
    elif told.startswith("latency: {"):
        assert breach is not None  # without bounds, a result is the breach
        assert breach.endswith("and 1 more")
    else:
        assert breach is not None
        assert told in breach


def test_a_value_gate_without_a_value_is_blind_and_not_well() -> None:
    assert unjudged([look(max=5)], Bake()) == (
        "metrics: latency cannot be judged: the expression has no result"
    )
    watch = BakeWatch(Bake(), Monotonic(0.0), attempts=3)
    assert watch.feed(Monotonic(0.0), [look(max=5)]).verdict is Verdict.GOING_ON
    assert watch.feed(Monotonic(60.0), [look(max=5)]).verdict is Verdict.BREACH


def test_without_a_reading_from_before_the_flip_a_relative_gate_does_not_pass() -> None:
    watch = BakeWatch(Bake(), Monotonic(0.0), attempts=3)
    watch.feed(Monotonic(0.0), [look(1.0, max_ratio=2)])
    judged = watch.feed(Monotonic(60.0), [look(1.0, max_ratio=2)])
    assert judged.verdict is Verdict.BREACH
    assert "no reading from before" in judged.reason
    by_force = BakeWatch(Bake(), Monotonic(0.0), attempts=3, excused=frozenset({"latency"}))
    assert by_force.feed(Monotonic(60.0), [look(1.0, max_ratio=2)]).verdict is Verdict.PASSED


def test_the_baseline_holds_only_what_can_be_compared_with() -> None:
    assert baseline([look(3.0, max_increase=1)]) == {"latency": 3.0}
    assert baseline([look(3.0, max=1)]) == {}
    assert baseline([look(math.nan, max_increase=1)]) == {}
    assert baseline([look(max_increase=1)]) == {}


def test_what_is_kept_of_a_look_is_strict_json() -> None:
    for value in (1.5, math.nan, math.inf, -math.inf):
        json.dumps(look(value, max=1, before=None).as_dict(), allow_nan=False)


# -- through the job ------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    trader = TraderStub()
    made = Place(tmp_path, trader)
    made.options["bake"] = {
        "duration": 0.3,
        "interval": 0.02,
        "gates": [{"name": "latency", "expr": "latency", "max": 100, "max_ratio": 1.5}],
    }
    trader.version = lambda: os.path.basename(os.readlink(made.root / "current"))
    yield made
    trader.close()


def reading(place: Place, value: float) -> None:
    assert place.metrics
    place.metrics.results = (Result({}, value),)


async def test_a_version_that_is_slower_than_the_one_before_is_rolled_back_and_the_values_kept(
    place: Place,
) -> None:
    reading(place, 10.0)
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await ended(job, "v2", "ACTIVE")
        place.options["bake"]["duration"] = 60.0
        job.prepare(place.section(bake=place.options["bake"]))()
        published(place.tmp, "v3", note="3")
        seen = await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
        assert seen["gates"][0]["before"] == 10.0
        reading(place, 15.5)
        entry = await ended(job, "v3", "ROLLED_BACK")
    assert "15.5 is more than 1.5 times the 10 from before the flip" in entry["reason"]
    values: dict[str, Any] = {step["step"]: step.get("values") for step in entry["steps"]}
    assert values["gates"][0]["value"] == 10.0
    decided = values["bake"][0]
    assert (decided["value"], decided["before"]) == (15.5, 10.0)
    assert "1.5 times" in decided["breach"]


async def test_the_reading_from_before_the_flip_outlives_a_restart(place: Place) -> None:
    reading(place, 10.0)
    place.options["bake"]["duration"] = 60.0
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
    reading(place, 16.0)
    async with place.agent() as job:
        entry = await ended(job, "v2", "ROLLED_BACK")
        assert "the 10 from before the flip" in entry["reason"]
