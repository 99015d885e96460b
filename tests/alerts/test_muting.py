"""Who is muted, and for how long; silences outlive a restart and end by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.alerts.damping import Damper
from agent.alerts.muting import Muting
from agent.alerts.silences import KEPT_FOR, Silences
from agent.alerts.state import Alert, fingerprint
from agent.configrouting import Flapping, Inhibition, Maintenance
from agent.errors import UsageError
from agent.state import StateDB
from agent.units import Seconds, UnixTime
from tests.faults.clock import FakeClock


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.path = folder / "state.db"
        self.db = StateDB(self.path, self.clock)
        self.silences = Silences(self.db, self.clock)

    def reopen(self) -> None:
        self.db.close()
        self.db = StateDB(self.path, self.clock)
        self.silences = Silences(self.db, self.clock)

    def muted(self, **labels: str) -> bool:
        return self.silences.muting(labels, self.clock.now()) is not None


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.db.close()


def alert(**labels: str) -> Alert:
    at = UnixTime(0.0)
    return Alert(fingerprint(labels), labels, {}, 1.0, "firing", at, at)


def test_a_silence_mutes_what_it_names_until_it_ends_through_a_restart(bench: Bench) -> None:
    made = bench.silences.add(
        {"matchers": ['alertname="A"', 'desk=~"f.*"'], "duration": "30m", "by": "ann"}
    )
    assert made["state"] == "active"
    assert made["ends_at"] == bench.clock.now() + 1800
    assert bench.muted(alertname="A", desk="fx")
    assert not bench.muted(alertname="A", desk="eq")
    bench.reopen()
    assert bench.muted(alertname="A", desk="fx")
    assert bench.silences.list()["silences"][0]["by"] == "ann"
    bench.clock.tick(1800)
    assert not bench.muted(alertname="A", desk="fx")
    assert bench.silences.list()["silences"] == []
    assert bench.silences.list({"expired": True})["silences"][0]["state"] == "expired"


def test_a_silence_that_begins_later_does_not_mute_before(bench: Bench) -> None:
    now = bench.clock.now()
    bench.silences.add({"matchers": 'a="1"', "starts_at": now + 60, "ends_at": now + 120})
    assert bench.silences.list()["silences"][0]["state"] == "pending"
    assert not bench.muted(a="1")
    bench.clock.tick(60)
    assert bench.muted(a="1")
    bench.clock.tick(60)
    assert not bench.muted(a="1")


def test_an_expired_silence_mutes_no_more_and_is_forgotten_after_a_week(bench: Bench) -> None:
    made = bench.silences.add({"matchers": 'a="1"', "duration": 3600})
    bench.silences.expire({"id": made["id"][:6]})
    assert not bench.muted(a="1")
    bench.reopen()
    assert not bench.muted(a="1")
    with pytest.raises(UsageError, match="over already"):
        bench.silences.expire({"id": made["id"]})
    bench.clock.tick(KEPT_FOR + 1)
    bench.silences.forget_old()
    bench.reopen()
    assert bench.silences.list({"expired": True})["silences"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "matchers"),
        ({"matchers": []}, "mute every alert"),
        ({"matchers": ['a=~".*"'], "duration": "1h"}, "mute every alert"),
        ({"matchers": ["a"], "duration": "1h"}, "operator"),
        ({"matchers": ['a="1"']}, "ends_at"),
        ({"matchers": ['a="1"'], "duration": "soon"}, "duration"),
        ({"matchers": ['a="1"'], "duration": -1}, "duration"),
        ({"matchers": ['a="1"'], "ends_at": 5}, "over before"),
        ({"matchers": [1], "duration": "1h"}, "matchers"),
        ({"matchers": ['a="1"'], "ends_at": True}, "ends_at"),
    ],
)
def test_a_silence_that_makes_no_sense_is_refused(
    bench: Bench, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        bench.silences.add(arguments)
    assert bench.silences.list()["silences"] == []


@pytest.mark.parametrize("name", ["", "zzzz", "%", "0000"])
def test_what_is_no_silence_cannot_be_expired(bench: Bench, name: str) -> None:
    bench.silences.add({"matchers": 'a="1"', "duration": "1h"})
    with pytest.raises(UsageError, match="no silence"):
        bench.silences.expire({"id": name})


def muting(bench: Bench, *windows: dict[str, Any], inhibit: list[dict[str, Any]] = []) -> Muting:  # noqa: B006
    return Muting(
        bench.silences,
        [Inhibition.model_validate(rule) for rule in inhibit],
        [Maintenance.model_validate({"name": "w", **window}) for window in windows],
    )


def at(text: str, zone: str = "UTC") -> UnixTime:
    zoned = datetime.fromisoformat(text)
    return UnixTime(zoned.replace(tzinfo=UTC if zone == "UTC" else ZoneInfo(zone)).timestamp())


def test_a_window_over_midnight_is_open_on_the_evening_and_on_the_morning_after(
    bench: Bench,
) -> None:
    window = {"days": ["fri"], "start": "22:00", "end": "06:00"}
    (made,) = muting(bench, window).windows
    assert not made.open(at("2026-03-06 21:59"))
    assert made.open(at("2026-03-06 22:00"))  # a Friday
    assert made.open(at("2026-03-07 05:59"))
    assert not made.open(at("2026-03-07 06:00"))
    assert not made.open(at("2026-03-06 05:00"))
    assert not made.open(at("2026-03-07 22:30"))


def test_a_window_follows_the_clocks_of_its_zone_through_the_change_of_the_hour(
    bench: Bench,
) -> None:
    (made,) = muting(bench, {"zone": "Europe/Zurich", "start": "03:00", "end": "04:00"}).windows
    assert made.open(at("2026-03-28 02:30"))  # 03:30 there, before the change
    assert made.open(at("2026-03-29 01:30"))  # 03:30 there, on the day of the change
    assert not made.open(at("2026-03-29 02:30"))
    assert made.open(at("2026-03-30 01:30"))


def test_a_window_of_a_whole_day_is_open_all_day(bench: Bench) -> None:
    (made,) = muting(bench, {"days": ["sun"]}).windows
    assert [made.open(at(f"2026-03-0{day} 12:00")) for day in (7, 8, 9)] == [False, True, False]


def test_a_window_mutes_only_what_its_matchers_meet(bench: Bench) -> None:
    made = muting(bench, {"matchers": ['team="risk"']})
    risk, other = alert(team="risk"), alert(team="fx")
    now = bench.clock.now()
    assert made.reason(risk.labels, risk, [], now) == "maintenance w"
    assert made.reason(other.labels, other, [], now) is None


RULE = {"source": ['severity="critical"'], "target": ['severity=~"warning|critical"'],
        "equal": ["service"]}  # fmt: skip


def test_a_critical_alert_mutes_the_warning_of_the_same_service_and_no_other(
    bench: Bench,
) -> None:
    made = muting(bench, inhibit=[RULE])
    source = alert(alertname="Down", severity="critical", service="risk")
    for service, expected in (("risk", "inhibited by Down"), ("fx", None)):
        target = alert(alertname="Slow", severity="warning", service=service)
        firing = [source, target]
        assert made.reason(target.labels, target, firing, bench.clock.now()) == expected


def test_two_alerts_that_meet_both_sides_do_not_silence_each_other(bench: Bench) -> None:
    made = muting(bench, inhibit=[RULE])
    one = alert(alertname="A", severity="critical", service="risk")
    two = alert(alertname="B", severity="critical", service="risk")
    assert made.reason(one.labels, one, [one, two], bench.clock.now()) is None
    assert made.reason(two.labels, two, [one, two], bench.clock.now()) is None


STEP = st.tuples(st.sampled_from(("add", "expire", "wait", "reopen")), st.integers(0, 3))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEP, max_size=15))
def test_silences_do_what_a_list_of_intervals_would(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("silences"))
    model: list[list[Any]] = []  # id, value, start, end
    for step, number in steps:
        now = bench.clock.now()
        if step == "add":
            start = now + 60 * (number % 2)
            made = bench.silences.add(
                {"matchers": f'n="{number}"', "starts_at": start, "duration": 100}
            )
            model.append([made["id"], str(number), start, start + 100])
        elif step == "wait":
            bench.clock.tick(50)
        elif step == "reopen":
            bench.reopen()
        elif number < len(model) and model[number][3] > now:
            bench.silences.expire({"id": model[number][0]})
            model[number][3] = now
        now = bench.clock.now()
        for value in "0123":
            expected = any(v == value and start <= now < end for _, v, start, end in model)
            assert bench.muted(n=value) == expected
    bench.db.close()


# -- flapping ----------------------------------------------------------------------------------


def test_an_alert_flaps_after_more_changes_than_allowed_and_until_it_is_calm() -> None:
    damper = Damper(Flapping(changes=3, within=Seconds(60.0), calm=Seconds(30.0)))
    told = [damper.changed("a", UnixTime(float(second))) for second in range(5)]
    assert told == [False, False, False, True, True]
    assert not damper.flaps("b")
    assert damper.calm(UnixTime(33.0)) == []
    assert damper.calm(UnixTime(34.0)) == ["a"]
    assert not damper.flaps("a")


def test_an_alert_that_comes_and_goes_slowly_never_flaps() -> None:
    damper = Damper(Flapping(changes=3, within=Seconds(60.0), calm=Seconds(30.0)))
    assert not any(damper.changed("a", UnixTime(second * 25.0)) for second in range(100))


def test_damping_can_be_switched_off() -> None:
    damper = Damper(Flapping(changes=0))
    assert not any(damper.changed("a", UnixTime(0.0)) for _ in range(100))
