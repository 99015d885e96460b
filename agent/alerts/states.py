"""What is pending and firing, kept in SQLite so that a restart forgets neither.

Rows are written on transitions only, in the transaction that also queues the notification: after a
crash an alert is either still as it was, and fires again when its rule is judged, or it has fired
and its page is in the outbox. Labels and annotations are scrubbed of known secret values before
they reach the disk; the fingerprint is that of the labels as they were.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from agent.alerts.state import Alert
from agent.state import StateDB
from agent.units import UnixTime

_STEPS = (
    "CREATE TABLE alert_states (rule TEXT NOT NULL, fingerprint TEXT NOT NULL, name TEXT NOT NULL,"
    " state TEXT NOT NULL, labels TEXT NOT NULL, annotations TEXT NOT NULL, value REAL,"
    " active_at REAL NOT NULL, fired_at REAL, keeping_since REAL,"
    " PRIMARY KEY (rule, fingerprint)) WITHOUT ROWID",
    "CREATE TABLE alert_told (fingerprint TEXT PRIMARY KEY, dedup_key TEXT NOT NULL,"
    " severity TEXT NOT NULL, destinations TEXT NOT NULL, told_at REAL NOT NULL) WITHOUT ROWID",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """One alert as it was when it last changed, and the rule that it belongs to."""

    rule: str
    alert: Alert


@dataclass(frozen=True, slots=True)
class Told:
    """Who was told that an alert fires, under which key, and when last."""

    fingerprint: str
    dedup_key: str
    severity: str
    destinations: tuple[str, ...]
    at: UnixTime


class States:
    """The two tables. Writing happens inside a caller's transaction."""

    def __init__(self, db: StateDB, scrub: Callable[[Any], Any]) -> None:
        """`scrub` masks known secret values in a JSON-like tree."""
        self._db = db
        self._scrub = scrub
        db.migrate("alert_states", _STEPS)

    def load(self) -> list[Kept]:
        """Every remembered alert."""
        return [
            Kept(
                row["rule"],
                Alert(
                    fingerprint=row["fingerprint"],
                    labels=json.loads(row["labels"]),
                    annotations=json.loads(row["annotations"]),
                    value=math.nan if row["value"] is None else row["value"],
                    state=row["state"],
                    active_at=row["active_at"],
                    fired_at=row["fired_at"],
                    keeping_since=row["keeping_since"],
                ),
            )
            for row in self._db.query("SELECT * FROM alert_states ORDER BY active_at")
        ]

    def load_told(self) -> list[Told]:
        """Everyone who waits for a resolve."""
        return [
            Told(
                row["fingerprint"],
                row["dedup_key"],
                row["severity"],
                tuple(json.loads(row["destinations"])),
                row["told_at"],
            )
            for row in self._db.query("SELECT * FROM alert_told")
        ]

    def write(
        self,
        cursor: sqlite3.Cursor,
        put: Iterable[Kept],
        gone: Iterable[tuple[str, str]],
    ) -> None:
        """Remember `put`, forget `gone` (rule and fingerprint)."""
        cursor.executemany(
            "DELETE FROM alert_states WHERE rule = ? AND fingerprint = ?", list(gone)
        )
        cursor.executemany(
            "INSERT OR REPLACE INTO alert_states VALUES (?,?,?,?,?,?,?,?,?,?)",
            [self._row(kept) for kept in put],
        )

    def write_told(self, cursor: sqlite3.Cursor, put: Iterable[Told], gone: Iterable[str]) -> None:
        """Remember who was told; forget those whose resolve is queued."""
        cursor.executemany("DELETE FROM alert_told WHERE fingerprint = ?", [(key,) for key in gone])
        cursor.executemany(
            "INSERT OR REPLACE INTO alert_told VALUES (?,?,?,?,?)",
            [
                (t.fingerprint, t.dedup_key, t.severity, json.dumps(t.destinations), t.at)
                for t in put
            ],
        )

    def _row(self, kept: Kept) -> tuple[Any, ...]:
        alert = kept.alert
        return (
            kept.rule,
            alert.fingerprint,
            alert.name,
            alert.state,
            json.dumps(self._scrub(dict(alert.labels))),
            json.dumps(self._scrub(dict(alert.annotations))),
            alert.value,  # SQLite keeps NaN as NULL
            alert.active_at,
            alert.fired_at,
            alert.keeping_since,
        )
