"""A row of the outbox: in memory, and how it is written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from agent.alerts.routing import Notification
from agent.state import StateDB
from agent.units import UnixTime

STEPS = (
    "CREATE TABLE outbox (id INTEGER PRIMARY KEY, destination TEXT NOT NULL,"
    " dedup_key TEXT NOT NULL, status TEXT NOT NULL, critical INTEGER NOT NULL,"
    " body TEXT NOT NULL, decided_at REAL NOT NULL, created_at REAL NOT NULL,"
    " attempts INTEGER NOT NULL DEFAULT 0, next_at REAL, last_error TEXT,"
    " ended_at REAL, end TEXT)",
    "CREATE INDEX outbox_waiting ON outbox (id) WHERE end IS NULL",
    "CREATE INDEX outbox_ended ON outbox (ended_at) WHERE end IS NOT NULL",
    "ALTER TABLE outbox ADD COLUMN grp TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE outbox ADD COLUMN digest TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE outbox ADD COLUMN alone INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE outbox ADD COLUMN fell INTEGER NOT NULL DEFAULT 0",
)


@dataclass(slots=True)
class Item:
    """One waiting row. `decided_at` is when the sample that decided was in hand.

    `group` waits together until `due` (monotonic; a restart makes everything due). `digest` is the
    key of the message that tells it with others, `alone` says that it must go by itself, `fell`
    that its fallback destination was told.
    """

    id: int
    destination: str
    notification: Notification
    decided_at: UnixTime
    created_at: UnixTime
    attempts: int = 0
    last_error: str | None = None
    stored: bool = False
    released: bool = False
    group: str = ""
    due: float = 0.0
    held: float = 0.0
    digest: str = ""
    alone: bool = False
    fell: bool = False


Note = tuple[int, str, UnixTime, int]  # attempts, last_error, next_at, id
Mark = tuple[str, int, int, int]  # digest, alone, fell, id
End = tuple[str, UnixTime, int, str | None, int]  # end, ended_at, attempts, last_error, id


def write(
    db: StateDB,
    rows: list[tuple[object, ...]],
    notes: list[Note],
    ends: list[End],
    more: Callable[[sqlite3.Cursor], None],
) -> None:
    """All of it in one transaction. Raises sqlite3.Error."""
    with db.transaction() as cursor:
        cursor.executemany(
            "INSERT OR IGNORE INTO outbox"
            " (id, destination, dedup_key, status, critical, body, decided_at, created_at, grp)"
            " VALUES (?,?,?,?,?,?,?,?,?)",
            rows,
        )
        cursor.executemany(
            "UPDATE outbox SET attempts = ?, last_error = ?, next_at = ? WHERE id = ?", notes
        )
        cursor.executemany(
            "UPDATE outbox SET end = ?, ended_at = ?, attempts = ?,"
            " last_error = coalesce(?, last_error) WHERE id = ?",
            ends,
        )
        more(cursor)


def as_row(item: Item) -> tuple[object, ...]:
    """What `write` inserts."""
    n = item.notification
    return (
        item.id,
        item.destination,
        n.dedup_key,
        n.status,
        int(n.critical),
        json.dumps(n.as_dict()),
        item.decided_at,
        item.created_at,
        item.group,
    )
