"""What is queued is on disk before it goes out, leaves in order, and never vanishes silently."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.alerts.outbox import KEPT_FOR, Outbox
from agent.alerts.outboxrows import Item
from agent.state import StateDB
from agent.units import UnixTime
from tests.alerts.made import notification
from tests.faults.clock import FakeClock

NOW = UnixTime(1_750_000_000.0)


def queue(box: Outbox, *arguments: Any, **more: Any) -> Item:
    """Add one that must be added."""
    item = box.add(arguments[0], notification(*arguments[1:], **more), NOW)
    assert item is not None
    return item


class Bench:
    """An outbox that can be closed and opened again on the same file."""

    def __init__(self, folder: Path, limit: int = 100) -> None:
        self.clock = FakeClock()
        self.path = folder / "state.db"
        self.limit = limit
        self.db = StateDB(self.path, self.clock)
        self.box = Outbox(self.db, self.clock, limit)

    def reopen(self) -> Outbox:
        self.close()
        self.db = StateDB(self.path, self.clock)
        self.box = Outbox(self.db, self.clock, self.limit)
        return self.box

    def close(self) -> None:
        self.box.close()
        self.db.close()

    def order(self, destination: str = "slack") -> list[tuple[str, str]]:
        return [
            (i.notification.dedup_key, i.notification.status) for i in self.box.heads(destination)
        ]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


async def test_what_was_queued_is_there_after_a_restart_and_what_was_accepted_is_not(
    bench: Bench,
) -> None:
    queue(bench.box, "slack", "a")
    done = queue(bench.box, "slack", "b")
    await bench.box.flush()
    bench.box.accepted(done)
    await bench.box.flush()
    box = bench.reopen()
    (item,) = box.waiting()
    assert item.notification == notification("a")
    assert item.decided_at == NOW
    assert box.delivered("slack") == (1, NOW)


async def test_nothing_goes_out_before_it_is_on_disk(bench: Bench) -> None:
    queue(bench.box, "slack", "a")
    assert bench.box.heads("slack") == []
    await bench.box.flush()
    assert bench.order() == [("a", "firing")]


async def test_a_resolve_waits_for_its_trigger(bench: Bench) -> None:
    trigger = queue(bench.box, "slack", "a")
    queue(bench.box, "slack", "a", "resolved")
    await bench.box.flush()
    assert bench.order() == [("a", "firing")]
    bench.box.failed(trigger, "down", NOW)
    assert bench.order() == [("a", "firing")]
    bench.box.accepted(trigger)
    assert bench.order() == [("a", "resolved")]


async def test_critical_goes_first_and_what_failed_stands_behind_its_equals(bench: Bench) -> None:
    queue(bench.box, "slack", "w", severity="warning")
    first = queue(bench.box, "slack", "c1")
    queue(bench.box, "slack", "c2")
    queue(bench.box, "pagerduty", "c1")
    await bench.box.flush()
    assert [key for key, _ in bench.order()] == ["c1", "c2", "w"]
    bench.box.failed(first, "no", NOW)
    assert [key for key, _ in bench.order()] == ["c2", "c1", "w"]
    assert [key for key, _ in bench.order("pagerduty")] == ["c1"]


async def test_a_full_outbox_drops_the_oldest_that_is_not_critical_and_says_so(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, limit=3)
    for key, severity in (
        ("c1", "critical"),
        ("w1", "warning"),
        ("w2", "warning"),
        ("c2", "critical"),
    ):
        queue(bench.box, "slack", key, severity=severity)
    assert [item.notification.dedup_key for item in bench.box.make_room()] == ["w1"]
    assert [(entry[1], entry[2]) for entry in bench.box.given_up] == [("slack", "dropped")]
    for number in range(5):
        queue(bench.box, "slack", f"more{number}")
    assert [item.notification.dedup_key for item in bench.box.make_room()] == ["w2"]
    assert len(bench.box.waiting()) == 7  # critical ones, beyond the limit
    assert await bench.box.flush()
    assert len(bench.reopen().waiting()) == 7
    bench.close()


async def test_what_is_dropped_takes_its_resolve_along(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limit=2)
    queue(bench.box, "slack", "w", severity="warning")
    queue(bench.box, "slack", "w", "resolved", severity="warning")
    queue(bench.box, "slack", "c")
    dropped = bench.box.make_room()
    assert [item.notification.status for item in dropped] == ["firing", "resolved"]
    bench.close()


async def test_an_alert_that_flaps_through_an_outage_is_one_page_that_ends_as_the_alert_is(
    bench: Bench,
) -> None:
    for _ in range(50):
        bench.box.add("slack", notification("a"), NOW)
        bench.box.add("slack", notification("a", "resolved"), NOW)
    bench.box.add("slack", notification("a"), NOW)
    await bench.box.flush()
    assert [i.notification.status for i in bench.box.waiting()] == ["firing"]
    bench.box.add("slack", notification("a", "resolved"), NOW)
    await bench.box.flush()
    statuses = [i.notification.status for i in bench.reopen().waiting()]
    assert statuses == ["firing", "resolved"]
    assert bench.box.given_up == []


async def test_a_resolve_that_may_be_on_its_way_is_not_taken_back(bench: Bench) -> None:
    queue(bench.box, "slack", "a", "resolved")  # its trigger was accepted before
    queue(bench.box, "slack", "a")
    await bench.box.flush()
    statuses = [i.notification.status for i in bench.box.waiting()]
    assert statuses == ["resolved", "firing"]


async def test_a_repeat_adds_nothing_to_what_still_waits(bench: Bench) -> None:
    queue(bench.box, "slack", "a")
    assert bench.box.add("slack", notification("a", repeated=True), NOW) is None
    assert bench.box.add("pagerduty", notification("a", repeated=True), NOW) is not None


async def test_a_row_that_cannot_be_read_stops_nothing_and_is_shown(bench: Bench) -> None:
    queue(bench.box, "slack", "a")
    queue(bench.box, "slack", "b")
    await bench.box.flush()
    with bench.db.transaction() as cursor:
        cursor.execute("UPDATE outbox SET body = '{' WHERE dedup_key = 'a'")
    box = bench.reopen()
    assert [i.notification.dedup_key for i in box.waiting()] == ["b"]
    assert [entry[1:3] for entry in box.given_up] == [("slack", "undeliverable")]
    await box.flush()
    assert [entry[1:3] for entry in bench.reopen().given_up] == [("slack", "undeliverable")]


async def test_a_disk_that_refuses_does_not_hold_back_a_page(bench: Bench) -> None:
    """The trigger stands for a full or read-only disk: SQLite refuses the insert."""
    with bench.db.transaction() as cursor:
        cursor.execute(
            "CREATE TRIGGER full BEFORE INSERT ON outbox"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    queue(bench.box, "slack", "a")
    other = queue(bench.box, "slack", "b")
    assert not await bench.box.flush()
    assert "full" in (bench.box.write_error or "")
    assert [key for key, _ in bench.order()] == ["a", "b"]
    bench.box.accepted(other)
    with bench.db.transaction() as cursor:
        cursor.execute("DROP TRIGGER full")
    assert bench.box.dirty()
    assert await bench.box.flush()
    assert bench.box.write_error is None
    assert [item.notification.dedup_key for item in bench.reopen().waiting()] == ["a"]


async def test_what_else_is_written_is_committed_with_the_queue_or_not_at_all(bench: Bench) -> None:
    def refuse(cursor: sqlite3.Cursor) -> None:
        cursor.execute("INSERT INTO nowhere VALUES (1)")

    queue(bench.box, "slack", "a")
    assert not await bench.box.flush(also=refuse)
    assert bench.db.query("SELECT * FROM outbox") == []
    assert await bench.box.flush()
    assert len(bench.db.query("SELECT * FROM outbox")) == 1


async def test_what_was_refused_for_good_stays_in_the_ledger_with_its_reason(bench: Bench) -> None:
    item = queue(bench.box, "slack", "a")
    await bench.box.flush()
    bench.box.undeliverable(item, "Slack refused the message (400)")
    await bench.box.flush()
    box = bench.reopen()
    assert box.waiting() == []
    assert [entry[1:] for entry in box.given_up] == [
        ("slack", "undeliverable", "Slack refused the message (400)")
    ]


async def test_the_ledger_forgets_after_a_week_and_never_what_waits(bench: Bench) -> None:
    old = queue(bench.box, "slack", "old")
    queue(bench.box, "slack", "waits")
    await bench.box.flush()
    bench.box.accepted(old)
    await bench.box.flush()
    bench.clock.tick(KEPT_FOR + 1)
    await bench.box.prune()
    keys = [row["dedup_key"] for row in bench.db.query("SELECT dedup_key FROM outbox")]
    assert keys == ["waits"]


ACTION = st.sampled_from(("trigger", "resolve", "accept", "fail", "refuse", "reopen"))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(actions=st.lists(st.tuples(ACTION, st.sampled_from("abc")), max_size=25))
async def test_per_key_the_order_holds_and_nothing_is_lost_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, str]]
) -> None:
    """Against one list a key."""
    bench = Bench(tmp_path_factory.mktemp("outbox"))
    model: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for action, key in actions:
        head = next((i for i in bench.box.heads("slack") if i.notification.dedup_key == key), None)
        if action in ("trigger", "resolve"):
            status = "firing" if action == "trigger" else "resolved"
            bench.box.add("slack", notification(key, status), NOW)
            if status == "resolved" or len(model[key]) < 2:
                model[key].append(status)
            elif model[key][-1] == "resolved":
                model[key].pop()
        elif action == "reopen":
            bench.reopen()
        elif head is not None:
            assert head.notification.status == model[key][0]
            if action == "fail":
                bench.box.failed(head, "down", NOW)
            else:
                getattr(bench.box, "accepted" if action == "accept" else "undeliverable")(
                    *((head,) if action == "accept" else (head, "no"))
                )
                model[key].pop(0)
        await bench.box.flush()
        for name, expected in model.items():
            waits = [i for i in bench.box.waiting() if i.notification.dedup_key == name]
            assert [i.notification.status for i in waits] == expected
    bench.close()


class CountedKey(str):
    """A key that counts how often it is compared with another."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        CountedKey.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


async def test_a_flood_is_queued_and_taken_back_without_a_look_at_all_that_waits(
    bench: Bench,
) -> None:
    """Ten thousand alerts of one tick would else hold the loop until the agent is killed for it."""
    CountedKey.compared = 0
    items = [queue(bench.box, "slack", CountedKey(f"flood-{number}")) for number in range(300)]
    for item in items:
        queue(bench.box, "slack", CountedKey(item.notification.dedup_key), "resolved")
        bench.box.accepted(item)
    assert CountedKey.compared < 300 * 20
    await bench.box.flush()
    assert bench.order() == [(f"flood-{number}", "resolved") for number in range(300)]
