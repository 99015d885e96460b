"""Alerts that come and go all the time: told once as flapping, and then not until they are calm.

The counting is pure and in memory: a restart begins it anew. What must survive is kept in SQLite:
the resolve that is withheld while an alert flaps, without which its incident would stay open.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable

from agent.alerts.state import Alert
from agent.configrouting import Flapping
from agent.state import StateDB
from agent.units import UnixTime

_STEPS = (
    "CREATE TABLE alert_withheld (fingerprint TEXT PRIMARY KEY, labels TEXT NOT NULL,"
    " annotations TEXT NOT NULL, value REAL, active_at REAL NOT NULL, fired_at REAL,"
    " ended_at REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE alert_muted (fingerprint TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID",
)


class Damper:
    """Counts the changes of each alert."""

    def __init__(self, config: Flapping) -> None:
        self.config = config
        self._changes: dict[str, deque[UnixTime]] = {}
        self._flapping: set[str] = set()

    def changed(self, fingerprint: str, at: UnixTime) -> bool:
        """Note that the alert fired or was resolved; whether it flaps now."""
        if self.config.changes == 0:
            return False
        changes = self._changes.setdefault(fingerprint, deque())
        changes.append(at)
        while changes and changes[0] <= at - self.config.within:
            changes.popleft()
        if len(changes) > self.config.changes:
            self._flapping.add(fingerprint)
        while len(changes) > self.config.changes + 1:
            changes.popleft()
        return fingerprint in self._flapping

    def flaps(self, fingerprint: str) -> bool:
        """Whether the alert has been flapping and is not calm yet."""
        return fingerprint in self._flapping

    def resume(self, fingerprint: str, at: UnixTime) -> None:
        """After a restart: an alert whose resolve was withheld flaps until it is calm."""
        self._changes.setdefault(fingerprint, deque()).append(at)
        self._flapping.add(fingerprint)

    def calm(self, at: UnixTime) -> list[str]:
        """Alerts that have become calm since the last call; what is old is forgotten."""
        ended = [
            fingerprint
            for fingerprint in self._flapping
            if at - self._changes[fingerprint][-1] >= self.config.calm
        ]
        self._flapping.difference_update(ended)
        horizon = max(self.config.within, self.config.calm)
        for fingerprint in [f for f, c in self._changes.items() if at - c[-1] > horizon]:
            if fingerprint not in self._flapping:
                del self._changes[fingerprint]
        return ended


class Withheld:
    """The two tables: resolves that are withheld, and who is muted. Written by a caller."""

    def __init__(self, db: StateDB, scrub: Callable[[dict[str, str]], dict[str, str]]) -> None:
        self._db = db
        self._scrub = scrub
        db.migrate("alert_withheld", _STEPS)

    def load(self) -> dict[str, tuple[Alert, UnixTime]]:
        """Each withheld resolve, and when the alert ended."""
        return {
            row["fingerprint"]: (
                Alert(
                    fingerprint=row["fingerprint"],
                    labels=json.loads(row["labels"]),
                    annotations=json.loads(row["annotations"]),
                    value=math.nan if row["value"] is None else row["value"],
                    state="firing",
                    active_at=row["active_at"],
                    fired_at=row["fired_at"],
                ),
                row["ended_at"],
            )
            for row in self._db.query("SELECT * FROM alert_withheld")
        }

    def load_muted(self) -> dict[str, str]:
        """Who is muted, and why."""
        rows = self._db.query("SELECT * FROM alert_muted")
        return {row["fingerprint"]: row["reason"] for row in rows}

    def write(
        self, cursor: sqlite3.Cursor, changed: Iterable[tuple[str, tuple[Alert, UnixTime] | None]]
    ) -> None:
        """Remember a withheld resolve, or forget it."""
        for fingerprint, entry in changed:
            if entry is None:
                cursor.execute("DELETE FROM alert_withheld WHERE fingerprint = ?", (fingerprint,))
                continue
            alert, ended = entry
            row = (
                fingerprint,
                json.dumps(self._scrub(dict(alert.labels))),
                json.dumps(self._scrub(dict(alert.annotations))),
                alert.value,
                alert.active_at,
                alert.fired_at,
                ended,
            )
            cursor.execute("INSERT OR REPLACE INTO alert_withheld VALUES (?,?,?,?,?,?,?)", row)

    def write_muted(
        self, cursor: sqlite3.Cursor, changed: Iterable[tuple[str, str | None]]
    ) -> None:
        """Remember who is muted, or forget it."""
        for fingerprint, reason in changed:
            if reason is None:
                cursor.execute("DELETE FROM alert_muted WHERE fingerprint = ?", (fingerprint,))
            else:
                cursor.execute(
                    "INSERT OR REPLACE INTO alert_muted VALUES (?,?)", (fingerprint, reason)
                )
