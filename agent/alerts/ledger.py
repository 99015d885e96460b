"""The ledger: of each alert that was told, when it fired, was queued, was accepted, was resolved.

Read from the outbox's own table, where every row stays for a week after its end; nothing is written
here. Read anew only when the outbox has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from agent.alerts.outbox import Outbox
from agent.state import StateDB

SHOWN = 100
"""Newest notifications that are read."""

_NEWEST = (
    "SELECT destination, dedup_key, status, body, decided_at, created_at, attempts, last_error,"
    " ended_at, end FROM outbox ORDER BY id DESC LIMIT ?"
)


class Ledger:
    """The newest entries, one an alert and destination."""

    def __init__(self, db: StateDB, outbox: Outbox) -> None:
        self._db = db
        self._outbox = outbox
        self._seen: tuple[int, ...] | None = None
        self._entries: list[dict[str, Any]] = []

    def entries(self, destinations: Iterable[str]) -> list[dict[str, Any]]:
        """Newest first. Times are UNIX seconds; `delivery_seconds` is from the sample that decided
        to the receiver's acceptance of the trigger."""
        waiting = self._outbox.waiting()
        ended = sum(self._outbox.delivered(name)[0] for name in destinations)
        tries = sum(item.attempts for item in waiting)
        seen = (len(waiting), ended, tries, len(self._outbox.given_up))
        if seen != self._seen:
            self._seen = seen
            self._entries = _joined(self._db.query(_NEWEST, (SHOWN,)))
        return self._entries


def _joined(rows: list[Any]) -> list[dict[str, Any]]:
    """A trigger and its resolve are one entry; a trigger after a resolve begins another."""
    entries: list[dict[str, Any]] = []
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in reversed(rows):
        key = (row["destination"], row["dedup_key"])
        told = _told(row)
        entry = newest.get(key)
        if row["status"] == "firing" or entry is None or entry["resolve"] is not None:
            body = json.loads(row["body"])
            entry = newest[key] = {
                "name": body.get("name", ""),
                "severity": body.get("severity", ""),
                "destination": row["destination"],
                "dedup_key": row["dedup_key"],
                "trigger": None,
                "resolve": None,
                "delivery_seconds": None,
            }
            entries.append(entry)
        entry["trigger" if row["status"] == "firing" else "resolve"] = told
        if row["status"] == "firing" and row["end"] == "accepted":
            entry["delivery_seconds"] = round(max(0.0, row["ended_at"] - row["decided_at"]), 3)
    return entries[::-1]


def _told(row: Any) -> dict[str, Any]:
    return {
        "decided_at": row["decided_at"],
        "queued_at": row["created_at"],
        "attempts": row["attempts"],
        "end": row["end"],
        "ended_at": row["ended_at"],
        "last_error": row["last_error"],
    }
