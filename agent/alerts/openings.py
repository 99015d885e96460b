"""Incidents that are open at a receiver: under which credential, and in which digest.

A receiver of incidents (PagerDuty) takes a resolve only through the routing key of its trigger. So
each trigger's key is remembered, by a keyed fingerprint (HMAC-SHA-256 with a secret of this state
file): enough to know the key again, too little to learn it. And an alert that was told in a digest
has no incident of its own: the digest's is closed when the last of its alerts is over.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
from dataclasses import dataclass

from agent.state import StateDB

STEPS = (
    "CREATE TABLE outbox_open (destination TEXT NOT NULL, dedup_key TEXT NOT NULL,"
    " credential TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (destination, dedup_key))"
    " WITHOUT ROWID",
    "CREATE TABLE outbox_salt (salt BLOB NOT NULL)",
)

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Opening:
    """One open incident. `digest` is its key when the alert was told together with others."""

    credential: str
    digest: str


class Openings:
    """All of them, in memory; changes are written by the outbox, in its transactions."""

    def __init__(self, db: StateDB) -> None:
        db.migrate("outbox_open", STEPS)
        rows = db.query("SELECT salt FROM outbox_salt")
        if rows:
            self._salt: bytes = rows[0]["salt"]
        else:
            self._salt = secrets.token_bytes(32)
            with db.transaction() as cursor:
                cursor.execute("INSERT INTO outbox_salt VALUES (?)", (self._salt,))
        self._open: dict[Key, Opening] = {}
        self._digests: dict[Key, set[str]] = {}
        self._changed: dict[Key, Opening | None] = {}
        for row in db.query("SELECT * FROM outbox_open"):
            self._put(
                (row["destination"], row["dedup_key"]), Opening(row["credential"], row["digest"])
            )

    def mark(self, credential: str) -> str:
        """A credential's fingerprint; empty for none."""
        if not credential:
            return ""
        return hmac.new(self._salt, credential.encode(), hashlib.sha256).hexdigest()

    def get(self, destination: str, dedup_key: str) -> Opening | None:
        """The incident that an alert is open in."""
        return self._open.get((destination, dedup_key))

    def credential(self, destination: str, dedup_key: str) -> str:
        """The fingerprint of the one by which the incident `dedup_key` was opened; or empty."""
        opening = self._open.get((destination, dedup_key))
        if opening is not None:
            return opening.credential
        members = self._digests.get((destination, dedup_key), ())
        return next((self._open[(destination, key)].credential for key in members), "")

    def others(self, destination: str, opening: Opening, dedup_key: str) -> int:
        """How many other alerts hold the digest's incident open."""
        return len(self._digests.get((destination, opening.digest), set()) - {dedup_key})

    def opened(self, destination: str, dedup_key: str, opening: Opening) -> None:
        """The receiver has accepted a trigger."""
        self.closed(destination, dedup_key)
        self._put((destination, dedup_key), opening)
        self._changed[(destination, dedup_key)] = opening

    def closed(self, destination: str, dedup_key: str) -> None:
        """The alert holds no incident open any more."""
        key = (destination, dedup_key)
        opening = self._open.pop(key, None)
        if opening is None:
            return
        self._changed[key] = None
        if members := self._digests.get((destination, opening.digest)):
            members.discard(dedup_key)
            if not members:
                del self._digests[(destination, opening.digest)]

    def _put(self, key: Key, opening: Opening) -> None:
        self._open[key] = opening
        if opening.digest:
            self._digests.setdefault((key[0], opening.digest), set()).add(key[1])

    @property
    def dirty(self) -> bool:
        """Whether the disk lacks something."""
        return bool(self._changed)

    def take(self) -> dict[Key, Opening | None]:
        """What the disk lacks; the caller writes it, or gives it back."""
        changed, self._changed = self._changed, {}
        return changed

    def give_back(self, changed: dict[Key, Opening | None]) -> None:
        """The disk refused."""
        self._changed = {**changed, **self._changed}


def write(cursor: sqlite3.Cursor, changed: dict[Key, Opening | None]) -> None:
    """Bring the table up to date."""
    for (destination, dedup_key), opening in changed.items():
        if opening is None:
            cursor.execute(
                "DELETE FROM outbox_open WHERE destination = ? AND dedup_key = ?",
                (destination, dedup_key),
            )
        else:
            cursor.execute(
                "INSERT OR REPLACE INTO outbox_open VALUES (?,?,?,?)",
                (destination, dedup_key, opening.credential, opening.digest),
            )
