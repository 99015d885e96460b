"""The bake's decision: what is seen decides, and what cannot be seen is not well."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.bundles.bake import BakeWatch, Verdict
from agent.bundles.gates import Look, breached, stale_after, told, unjudged
from agent.configrollouts import Bake, BakeGate
from agent.gates import Result
from agent.units import Monotonic, Seconds

CONFIG = Bake(
    duration=Seconds(60),
    interval=Seconds(1),
    gates=(BakeGate(name="g", expr="up == 0"), BakeGate(name="h", expr="bad > 1")),
)
LIMIT = stale_after(CONFIG)
FIRING = Result({"__name__": "ALERTS", "alertname": "LatencyHigh", "severity": "critical"}, 1.0)


def good(name: str = "g") -> Look:
    return Look(BakeGate(name=name, expr="x"), age=Seconds(0.5))


def broken(name: str = "g") -> Look:
    return Look(BakeGate(name=name, expr="x"), (FIRING,), age=Seconds(0.5))


def blind(name: str = "g") -> Look:
    return Look(BakeGate(name=name, expr="x"))


def watch(forgiven: frozenset[str] = frozenset()) -> BakeWatch:
    return BakeWatch(CONFIG, Monotonic(0.0), attempts=3, forgiven=forgiven)


def at(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def test_any_result_is_a_breach_at_once_and_names_the_alert() -> None:
    judged = watch().feed(at(1), [good("h"), broken()])
    assert judged.verdict is Verdict.BREACH
    assert judged.reason == "g: LatencyHigh"


def test_a_bake_without_a_breach_passes_when_its_time_is_over_and_not_before() -> None:
    bake = watch()
    assert bake.feed(at(59.9), [good()]).verdict is Verdict.GOING_ON
    assert bake.feed(at(60), [good()]).verdict is Verdict.PASSED


def test_a_gate_without_samples_for_too_long_is_a_breach() -> None:
    bake = watch()
    assert bake.feed(at(0), [blind()]).verdict is Verdict.GOING_ON
    assert bake.feed(at(LIMIT), [blind()]).verdict is Verdict.GOING_ON
    judged = bake.feed(at(LIMIT + 0.1), [blind()])
    assert judged.verdict is Verdict.BREACH
    assert "no samples yet" in judged.reason


def test_an_error_that_lasts_is_a_breach_and_is_told() -> None:
    bake = watch()
    item = Look(BakeGate(name="g", expr="x"), error="no such function")
    bake.feed(at(0), [item])
    assert "no such function" in bake.feed(at(LIMIT + 1), [item]).reason


def test_samples_that_have_got_too_old_are_a_breach_without_further_waiting() -> None:
    old = Look(BakeGate(name="g", expr="x"), age=Seconds(LIMIT + 0.1))
    assert watch().feed(at(1), [old]).verdict is Verdict.BREACH


def test_sight_regained_begins_the_count_anew() -> None:
    bake = watch()
    for moment, item in ((0.0, blind()), (4.0, good()), (8.0, blind()), (12.0, blind())):
        assert bake.feed(at(moment), [item]).verdict is Verdict.GOING_ON


def test_the_trader_unwell_three_times_in_a_row_is_a_breach_and_two_times_is_not() -> None:
    bake = watch()
    assert bake.feed(at(1), [], unwell=2).verdict is Verdict.GOING_ON
    judged = bake.feed(at(2), [], unwell=3, why_unwell="status 503")
    assert judged.verdict is Verdict.BREACH
    assert "status 503" in judged.reason


def test_a_gate_flipped_over_by_force_counts_once_it_has_been_whole() -> None:
    bake = watch(frozenset({"g"}))
    assert bake.feed(at(1), [broken()]).verdict is Verdict.GOING_ON
    assert bake.feed(at(2), [good()]).verdict is Verdict.GOING_ON
    assert bake.feed(at(3), [broken()]).verdict is Verdict.BREACH


LOOKS = st.sampled_from(
    [good, broken, blind, lambda name: Look(BakeGate(name=name, expr="x"), age=Seconds(99.0))]
)


@given(st.lists(st.tuples(st.floats(0.01, 30), LOOKS, LOOKS, st.integers(0, 4)), max_size=40))
def test_no_sequence_of_looks_passes_early_blind_unwell_or_over_a_breach(
    steps: list[tuple[float, object, object, int]],
) -> None:
    bake, now = watch(), 0.0
    for gap, one, two, unwell in steps:
        now += gap
        looks = [one("g"), two("h")]  # type: ignore[operator]
        judged = bake.feed(at(now), looks, unwell=unwell, why_unwell="?")
        seen = [look for look in looks if look.blind(LIMIT) is None]
        if any(look.breach() for look in seen) or unwell >= 3:
            assert judged.verdict is Verdict.BREACH
        if judged.verdict is Verdict.PASSED:
            assert now >= CONFIG.duration
            assert len(seen) == 2
            assert not unwell
        if judged.verdict is Verdict.BREACH:
            assert judged.reason
            return
        if judged.verdict is Verdict.PASSED:
            return


def test_before_the_flip_a_blind_or_broken_gate_is_told() -> None:
    assert unjudged([good()], CONFIG) is None
    assert "cannot be judged: no samples yet" in str(unjudged([blind()], CONFIG))
    assert breached([good(), broken("h")]) == (
        "metrics: broken before the flip already: h: LatencyHigh"
    )


def test_a_result_is_told_as_prometheus_writes_it() -> None:
    assert told(Result({"__name__": "m", "b": "2", "a": "1"}, 0.25)) == 'm{a="1", b="2"} = 0.25'
    assert told(Result({}, 3.0)) == "value = 3"
