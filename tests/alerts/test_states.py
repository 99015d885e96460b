"""What is remembered of alerts is what they were, and nothing secret."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.alerts.state import Alert
from agent.alerts.states import Kept, States, Told
from agent.state import StateDB
from agent.units import UnixTime


@pytest.fixture
def db(tmp_path: Path) -> Iterator[StateDB]:
    made = StateDB(tmp_path / "state.db")
    yield made
    made.close()


def alert(key: str = "f1", **more: Any) -> Alert:
    told: dict[str, Any] = {
        "labels": {"alertname": "A", "desk": "fx"},
        "annotations": {"summary": "it burns"},
        "value": 2.5,
        "state": "firing",
        "active_at": UnixTime(1000.25),
        "fired_at": UnixTime(1030.25),
        "keeping_since": UnixTime(1040.5),
    }
    return Alert(key, **{**told, **more})


def same(value: Any) -> Any:
    return value


def test_an_alert_comes_back_as_it_was(db: StateDB) -> None:
    states = States(db, same)
    kept = [Kept("rule", alert()), Kept("rule", alert("f2", state="pending", fired_at=None))]
    with db.transaction() as cursor:
        states.write(cursor, kept, [])
    assert sorted(States(db, same).load(), key=lambda k: k.alert.fingerprint) == kept


def test_a_later_state_replaces_the_earlier_and_what_ended_is_gone(db: StateDB) -> None:
    states = States(db, same)
    with db.transaction() as cursor:
        states.write(cursor, [Kept("r", alert(state="pending")), Kept("r", alert("f2"))], [])
    with db.transaction() as cursor:
        states.write(cursor, [Kept("r", alert())], [("r", "f2")])
    (kept,) = states.load()
    assert (kept.alert.fingerprint, kept.alert.state) == ("f1", "firing")


def test_a_value_that_is_no_number_comes_back_as_one(db: StateDB) -> None:
    states = States(db, same)
    with db.transaction() as cursor:
        states.write(cursor, [Kept("r", alert(value=math.nan))], [])
    assert math.isnan(states.load()[0].alert.value)


def test_who_was_told_comes_back_until_the_resolve_is_queued(db: StateDB) -> None:
    states = States(db, same)
    told = Told("f1", "jules-1", "critical", ("pagerduty", "slack"), UnixTime(5.0))
    with db.transaction() as cursor:
        states.write_told(cursor, [told], [])
    assert states.load_told() == [told]
    with db.transaction() as cursor:
        states.write_told(cursor, [], ["f1"])
    assert states.load_told() == []


def test_what_the_scrubber_masks_never_reaches_the_disk(db: StateDB, tmp_path: Path) -> None:
    def scrub(tree: dict[str, str]) -> dict[str, str]:
        return {key: value.replace("canary-91", "[redacted]") for key, value in tree.items()}

    states = States(db, scrub)
    secret = alert(labels={"x": "canary-91"}, annotations={"y": "is canary-91"})
    with db.transaction() as cursor:
        states.write(cursor, [Kept("r", secret)], [])
    assert states.load()[0].alert.labels == {"x": "[redacted]"}
    for file in tmp_path.iterdir():
        assert b"canary-91" not in file.read_bytes()
