"""The life of an alert against a naive model, and each rule of it by itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.alerts.errors import EvalError
from agent.alerts.state import (
    Alert,
    Element,
    Timing,
    advance,
    fingerprint,
    restore,
    series,
)
from agent.units import Seconds, UnixTime

T0 = 1_750_000_000.0


def timing(hold: float = 0.0, keep: float = 0.0, back: float = 0.0) -> Timing:
    return Timing("A", Seconds(hold), Seconds(keep), Seconds(back))


def element(value: float = 1.0, **labels: str) -> Element:
    return Element({"alertname": "A", **labels}, {}, value)


class Life:
    """Drives `advance` and keeps what changed."""

    def __init__(self, rule: Timing) -> None:
        self.rule = rule
        self.alerts: dict[str, Alert] = {}

    def at(
        self, offset: float, *elements: Element, collected: float | None = 1e9
    ) -> list[tuple[str, str]]:
        now = UnixTime(T0 + offset)
        known = None if collected is None else Seconds(collected)
        moved = advance(self.rule, self.alerts, elements, now, known)
        self.alerts = moved.alerts
        return [(t.change, t.alert.labels.get("x", "")) for t in moved.transitions]


def test_without_a_for_an_alert_fires_at_once() -> None:
    life = Life(timing())
    assert life.at(0, element(x="a")) == [("firing", "a")]
    (alert,) = life.alerts.values()
    assert alert.fired_at == alert.active_at == T0


def test_with_a_for_it_is_pending_until_it_has_held_that_long() -> None:
    life = Life(timing(hold=30))
    assert life.at(0, element()) == [("pending", "")]
    assert life.at(29, element()) == []
    assert life.at(30, element()) == [("firing", "")]


def test_thirty_ticks_of_one_second_are_thirty_seconds_whatever_the_last_float_bit_says() -> None:
    for start in (0.1, 0.123, 0.7, 0.999):
        life = Life(timing(hold=30))
        for tick in range(30):
            life.at(round(start + tick, 3), element())
        assert life.at(round(start + 30, 3), element()) == [("firing", "")], start


def test_one_miss_while_pending_begins_anew() -> None:
    life = Life(timing(hold=30))
    life.at(0, element())
    assert life.at(20) == [("dropped", "")]
    assert life.at(21, element()) == [("pending", "")]
    assert life.at(31, element()) == []


def test_a_firing_alert_resolves_at_the_first_evaluation_without_it() -> None:
    life = Life(timing())
    life.at(0, element(x="a"), element(x="b"))
    assert life.at(1, element(x="b")) == [("resolved", "a")]
    assert life.at(2, element(x="b")) == []


def test_keep_firing_for_bridges_gaps_and_ends_when_the_gap_is_that_long() -> None:
    life = Life(timing(keep=10))
    life.at(0, element())
    assert life.at(1) == [("keeping", "")]
    assert life.at(10) == []
    assert life.at(10.5, element()) == [("seen again", "")]
    assert life.at(11) == [("keeping", "")]
    assert life.at(20) == []
    assert life.at(21) == [("resolved", "")]


def test_keep_firing_for_does_not_keep_a_pending_alert() -> None:
    life = Life(timing(hold=30, keep=10))
    life.at(0, element())
    assert life.at(1) == [("dropped", "")]


def test_two_elements_with_one_label_set_are_an_error_and_change_nothing() -> None:
    life = Life(timing())
    life.at(0, element(x="a"))
    before = dict(life.alerts)
    with pytest.raises(EvalError, match="same labels"):
        life.at(1, element(1.0, x="b"), element(2.0, x="b"))
    assert life.alerts == before


def test_the_value_follows_and_the_identity_does_not() -> None:
    life = Life(timing(hold=5))
    life.at(0, element(1.0))
    life.at(1, element(7.0))
    (alert,) = life.alerts.values()
    assert (alert.value, alert.active_at) == (7.0, T0)


def test_a_raised_for_does_not_take_back_what_fires() -> None:
    life = Life(timing(hold=1))
    life.at(0, element())
    life.at(1, element())
    life.rule = timing(hold=60)
    assert life.at(2, element()) == []
    assert next(iter(life.alerts.values())).state == "firing"


def test_the_series_say_what_prometheus_would_write() -> None:
    life = Life(timing(hold=10))
    life.at(0.7, element(x="a"))
    assert series(life.alerts.values()) == [
        ({"alertname": "A", "x": "a", "__name__": "ALERTS", "alertstate": "pending"}, 1.0),
        ({"alertname": "A", "x": "a", "__name__": "ALERTS_FOR_STATE"}, T0),
    ]


# -- after a restart ------------------------------------------------------------------------------


def restarted(life: Life, offset: float) -> Life:
    back = Life(life.rule)
    for key, alert in life.alerts.items():
        kept = restore(life.rule, alert, UnixTime(T0 + offset))
        if kept is not None:
            back.alerts[key] = kept
    return back


def test_pending_for_25_of_30_seconds_before_a_restart_fires_30_seconds_after_it_began() -> None:
    life = Life(timing(hold=30, back=60))
    life.at(0, element())
    life.at(25, element())
    back = restarted(life, 27)
    assert back.at(28, collected=0.0) == []  # a rate needs a second sample
    assert back.at(29, element(), collected=1.0) == []
    assert back.at(30, element(), collected=2.0) == [("firing", "")]


def test_a_restored_pending_alert_does_not_fire_without_being_seen() -> None:
    life = Life(timing(hold=30, back=60))
    life.at(0, element())
    back = restarted(life, 29)
    assert back.at(31, collected=1.0) == []
    assert back.at(39, collected=9.0) == []
    assert back.at(41, collected=11.0) == [("dropped", "")]


def test_a_restored_firing_alert_is_not_resolved_before_its_window_is_filled() -> None:
    life = Life(timing(back=60))
    life.at(0, element())
    back = restarted(life, 5)
    assert back.at(6, collected=None) == []
    assert back.at(7, collected=0.0) == []
    assert back.at(66, collected=59.0) == []
    assert back.at(67, collected=60.0) == [("resolved", "")]


def test_a_restored_alert_that_was_seen_again_resolves_like_any_other() -> None:
    life = Life(timing(back=60))
    life.at(0, element())
    back = restarted(life, 5)
    back.at(6, element(), collected=0.0)
    assert back.at(7, collected=1.0) == [("resolved", "")]


def test_keep_firing_for_goes_on_counting_across_a_restart() -> None:
    life = Life(timing(keep=100))
    life.at(0, element())
    life.at(10)
    back = restarted(life, 60)
    assert back.at(109) == []
    assert back.at(110) == [("resolved", "")]


def test_a_pending_alert_that_a_long_outage_outlived_begins_anew() -> None:
    life = Life(timing(hold=30))
    life.at(0, element())
    assert restarted(life, 331).alerts == {}
    assert len(restarted(life, 329).alerts) == 1


def test_a_wall_clock_set_back_meanwhile_makes_nothing_active_since_the_future() -> None:
    life = Life(timing(hold=30))
    life.at(0, element())
    back = restarted(life, -3600)
    (alert,) = back.alerts.values()
    assert alert.active_at == T0 - 3600
    assert back.at(-3570, element()) == [("firing", "")]


# -- properties -----------------------------------------------------------------------------------

LABELS = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4)


@given(LABELS, LABELS)
def test_fingerprints_are_equal_exactly_for_equal_label_sets(
    a: dict[str, str], b: dict[str, str]
) -> None:
    assert (fingerprint(a) == fingerprint(b)) == (a == b)
    assert fingerprint(dict(reversed(a.items()))) == fingerprint(a)
    assert len(fingerprint(a)) == 64


class AgainstANaiveModel(RuleBasedStateMachine):
    """The model keeps, per label, only the list of ticks at which it was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life(timing(hold=3, keep=2))
        self.tick = 0
        self.seen: dict[str, list[bool]] = {x: [] for x in "abc"}

    @rule(present=st.sets(st.sampled_from("abc")), ticks=st.integers(1, 3))
    def evaluate(self, present: set[str], ticks: int) -> None:
        for _ in range(ticks):
            self.life.at(self.tick, *(element(x=x) for x in sorted(present)))
            self.tick += 1
            for x in "abc":
                self.seen[x].append(x in present)

    @staticmethod
    def model(history: list[bool]) -> str:
        state, since, missed = "inactive", 0, 0
        for tick, present in enumerate(history):
            if present:
                missed = 0
                if state == "inactive":
                    state, since = "pending", tick
                if state == "pending" and tick - since >= 3:
                    state = "firing"
            elif state == "pending":
                state = "inactive"
            elif state == "firing":
                missed += 1
                if missed > 2:
                    state, missed = "inactive", 0
        return state

    @invariant()
    def agree(self) -> None:
        states = {a.labels["x"]: a.state for a in self.life.alerts.values()}
        for x, history in self.seen.items():
            assert states.get(x, "inactive") == self.model(history), (x, history)


TestAgainstANaiveModel = AgainstANaiveModel.TestCase
TestAgainstANaiveModel.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


def test_a_value_that_is_no_number_is_an_alert_all_the_same() -> None:
    life = Life(timing())
    assert life.at(0, element(math.nan)) == [("firing", "")]
