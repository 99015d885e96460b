"""Kill -9 before and after every statement that the outbox writes: no page is lost or changed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agent.alerts.openings import Opening
from agent.alerts.outbox import Outbox
from agent.state import StateDB
from agent.units import UnixTime
from tests.alerts.made import notification
from tests.faults.clock import FakeClock

NOW = UnixTime(1_750_000_000.0)


class _Counting:
    """A connection's cursor that dies at the n-th statement."""

    def __init__(self, cursor: sqlite3.Cursor, die: Any) -> None:
        self._cursor, self._die = cursor, die

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._cursor, name)
        if name not in ("execute", "executemany"):
            return found

        def counted(*arguments: Any) -> Any:
            self._die()
            done = found(*arguments)
            self._die()
            return done

        return counted


class _Connection:
    def __init__(self, connection: sqlite3.Connection, die: Any) -> None:
        self._connection, self._die = connection, die

    def cursor(self) -> Any:
        return _Counting(self._connection.cursor(), self._die)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _arm(db: StateDB, number: int) -> None:
    left = [number]

    def die() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    db._connection = _Connection(db._connection, die)  # type: ignore[assignment]


async def _work(box: Outbox, said: int) -> None:
    """Queue, join, send, resolve; a line for each promise that has been made durable."""

    def say(line: str) -> None:
        os.write(said, (line + "\n").encode())

    items = []
    for key in ("a", "b", "c"):
        item = box.add("pagerduty", notification(key), NOW)
        assert item is not None
        items.append(item)
    if await box.flush():
        say("queued")
    box.join(items[1:], "jules-digest-1")
    await box.flush()
    say("joined")
    for item in items:
        say(f"sent {item.notification.dedup_key}")
        box.accepted(item, "mark")
    await box.flush()
    say("noted")
    box.add("pagerduty", notification("a", "resolved"), NOW)
    await box.flush()
    say("resolve queued")


def _run(path: Path, number: int, said: int) -> None:
    db = StateDB(path, FakeClock())
    box = Outbox(db, FakeClock(), 100)
    _arm(db, number)
    asyncio.run(_work(box, said))


def test_at_no_statement_does_a_kill_lose_what_was_queued_or_resend_what_was_noted(
    tmp_path: Path,
) -> None:
    number, ended = 0, False
    while not ended:
        number += 1
        path = tmp_path / f"{number}.db"
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reading)
                _run(path, number, writing)
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading) as lines:
            said = lines.read().splitlines()
        _, status = os.waitpid(child, 0)
        ended = not os.WIFSIGNALED(status)
        if ended:
            assert os.WEXITSTATUS(status) == 0
        _check(path, said)
    assert number > 30


def _check(path: Path, said: list[str]) -> None:
    db = StateDB(path, FakeClock())
    box = Outbox(db, FakeClock(), 100)
    try:
        waiting = [(i.notification.dedup_key, i.notification.status) for i in box.waiting()]
        firing = [("a", "firing"), ("b", "firing"), ("c", "firing")]
        opened = [box.openings.get("pagerduty", key) for key in "abc"]
        assert waiting in ([], firing, [("a", "resolved")])
        if "queued" in said and "noted" not in said:
            assert waiting == firing or opened[0] is not None  # waits, or its end is on disk
        if waiting == firing:
            digests = {i.digest for i in box.waiting()[1:]}
            assert digests in ({""}, {"jules-digest-1"})
            if "joined" in said:
                assert digests == {"jules-digest-1"}
            assert opened == [None, None, None]  # an end and its incident are one transaction
        if "noted" in said:
            assert opened == [
                Opening("mark", ""),
                Opening("mark", "jules-digest-1"),
                Opening("mark", "jules-digest-1"),
            ]
        if "resolve queued" in said:
            assert waiting == [("a", "resolved")]
    finally:
        box.close()
        db.close()


@pytest.mark.parametrize("destination", ["slack"])
async def test_a_disk_that_refuses_keeps_marks_and_openings_for_the_next_write(
    tmp_path: Path, destination: str
) -> None:
    clock = FakeClock()
    db = StateDB(tmp_path / "state.db", clock)
    box = Outbox(db, clock, 100)
    item = box.add(destination, notification("a"), NOW)
    assert item is not None
    await box.flush()
    with db.transaction() as cursor:
        cursor.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON outbox"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    box.join([item], "jules-digest-1")
    box.openings.opened(destination, "z", Opening("m", ""))
    assert not await box.flush()
    assert box.dirty()
    with db.transaction() as cursor:
        cursor.execute("DROP TRIGGER full")
    assert await box.flush()
    box.close()
    again = Outbox(db, clock, 100)
    assert [i.digest for i in again.waiting()] == ["jules-digest-1"]
    assert again.openings.get(destination, "z") == Opening("m", "")
    again.close()
    db.close()
