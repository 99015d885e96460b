"""What must still be said, kept on disk before anything is sent.

Each row is one notification for one destination. The rules that hold through every kill:

1. a row is durable before the first attempt, in the transaction that remembers the alert's state
2. per destination and dedup key, rows leave in the order in which they were queued: a resolve that
   overtook its trigger would be thrown away by the receiver and leave an incident open for ever
3. a row ends as accepted, undeliverable, dropped or superseded, and stays in the ledger a week
4. at most `limit` rows wait; beyond that the oldest that is not critical is dropped, counted and
   shown, and with it what else waits under its key; a critical row is never dropped

The waiting rows are held in memory as well. When the disk refuses (full, read-only), a row is sent
from memory all the same, and written when the disk takes it: a full disk is when a page matters.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from agent.alerts import openings
from agent.alerts.grouping import Group, GroupTimers
from agent.alerts.openings import Opening, Openings
from agent.alerts.outboxrows import STEPS, End, Item, Mark, Note, as_row, write
from agent.alerts.routing import Notification
from agent.clock import Clock
from agent.state import StateDB
from agent.units import Seconds, UnixTime

KEPT_FOR = Seconds(7 * 86400.0)
"""How long the ledger remembers what was delivered or given up."""
SHOWN_FOR = Seconds(86400.0)
"""How long what was given up stays a failed condition."""


class Outbox:
    """The queue of every destination. Used on the loop; one thread of its own does the writing."""

    def __init__(self, db: StateDB, clock: Clock, limit: int) -> None:
        self._db = db
        self._clock = clock
        self.limit = limit
        db.migrate("outbox", STEPS)
        self.openings = Openings(db)
        self._marks: dict[int, Mark] = {}
        self._groups = GroupTimers()
        self._waiting: dict[int, Item] = {}
        self._keys: dict[tuple[str, str], dict[int, Item]] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._turn = asyncio.Lock()
        self.write_error: str | None = None
        last = db.query("SELECT max(id) AS id FROM outbox")[0]["id"]
        self._next = (last or 0) + 1
        self._ends: list[End] = []
        self._notes: dict[int, Note] = {}
        self.given_up: list[tuple[UnixTime, str, str, str]] = [
            (row["ended_at"], row["destination"], row["end"], row["last_error"] or "")
            for row in db.query(
                "SELECT ended_at, destination, end, last_error FROM outbox"
                " WHERE end IN ('undeliverable', 'dropped') AND ended_at > ? ORDER BY ended_at",
                (clock.now() - SHOWN_FOR,),
            )
        ]
        self._load()
        self._accepted = {
            row["destination"]: (row["n"], row["at"])
            for row in db.query(
                "SELECT destination, count(*) AS n, max(ended_at) AS at FROM outbox"
                " WHERE end = 'accepted' GROUP BY destination"
            )
        }

    def _load(self) -> None:
        for row in self._db.query("SELECT * FROM outbox WHERE end IS NULL ORDER BY id"):
            try:
                notification = Notification.from_dict(json.loads(row["body"]))
            except (ValueError, TypeError, KeyError):
                told = "the row cannot be read; was it written by a later version?"
                self.given_up.append((self._clock.now(), row["destination"], "undeliverable", told))
                self._ends.append(
                    ("undeliverable", self._clock.now(), row["attempts"], told, row["id"])
                )
                continue
            item = Item(
                id=row["id"],
                destination=row["destination"],
                notification=notification,
                decided_at=row["decided_at"],
                created_at=row["created_at"],
                attempts=row["attempts"],
                last_error=row["last_error"],
                stored=True,
                released=True,
                group=row["grp"],
                digest=row["digest"],
                alone=bool(row["alone"]),
                fell=bool(row["fell"]),
            )
            self._wait(item)

    # -- queueing ---------------------------------------------------------------------------

    def add(
        self,
        destination: str,
        notification: Notification,
        decided_at: UnixTime,
        group: Group | None = None,
    ) -> Item | None:
        """Queue in memory; `flush` makes it durable and lets it go out.

        Returns None when there is nothing to add: a trigger whose key still has its first trigger
        and a resolve waiting takes the resolve back instead, so that an alert that flaps through an
        outage is one page and not a hundred; and a repeat adds nothing to what still waits.
        What is critical never waits for its group, and a resolve sends off what it ends.
        """
        waits = self._of_key(destination, notification.dedup_key)
        if notification.repeated and waits:
            return None
        # The first of a key may be on its way right now: only what stands behind it is taken back.
        if notification.status == "firing" and len(waits) > 1:
            if waits[-1].notification.status == "resolved":
                self._end(waits[-1], "superseded", "the alert fired again before it was sent")
            return None
        item = Item(self._next, destination, notification, decided_at, self._clock.now())
        self._next += 1
        if notification.status == "resolved":
            for earlier in waits:
                earlier.due = 0.0
        elif group is not None and not notification.critical:
            item.group = group.key
            now = self._clock.monotonic()
            item.due = self._groups.due(destination, group, now)
            item.held = max(0.0, item.due - now)
        self._wait(item)
        return item

    def _wait(self, item: Item) -> None:
        self._waiting[item.id] = item
        self._keys.setdefault(_key_of(item), {})[item.id] = item

    def make_room(self) -> list[Item]:
        """Drop what is beyond the limit, oldest first, never a critical one; return the dropped."""
        dropped: list[Item] = []
        over = len(self._waiting) - self.limit
        if over <= 0:
            return dropped
        for item in list(self._waiting.values()):
            if len(dropped) >= over:
                break
            if item.notification.critical or item.id not in self._waiting:
                continue
            for other in self._of_key(item.destination, item.notification.dedup_key):
                if not other.notification.critical:
                    self._end(other, "dropped", "the outbox was full")
                    dropped.append(other)
        return dropped

    def _of_key(self, destination: str, key: str) -> list[Item]:
        return list(self._keys.get((destination, key), {}).values())

    def dirty(self) -> bool:
        """Whether the disk lacks something."""
        unstored = any(not item.stored for item in self._waiting.values())
        return bool(self._ends or self._notes or self._marks or self.openings.dirty) or unstored

    async def flush(self, also: Callable[[sqlite3.Cursor], None] | None = None) -> bool:
        """Bring the disk up to date in one transaction, and let what was queued go out.

        Args:
            also: writes more in the same transaction; runs in the writer's thread.

        Returns False when the disk refused: `write_error` says why, what was queued goes out from
        memory, and the next call writes it all again (what `also` writes is the caller's to keep).
        """
        async with self._turn:  # an end is never written before its row
            new = [item for item in self._waiting.values() if not item.stored]
            ends, self._ends = self._ends, []
            notes, self._notes = self._notes, {}
            marks, self._marks = self._marks, {}
            opened = self.openings.take()
            rows = [as_row(item) for item in new]
            if not (rows or ends or notes or marks or opened or also):
                return True

            def more(cursor: sqlite3.Cursor) -> None:
                cursor.executemany(
                    "UPDATE outbox SET digest = ?, alone = ?, fell = ? WHERE id = ?",
                    list(marks.values()),
                )
                openings.write(cursor, opened)
                if also is not None:
                    also(cursor)

            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(
                    self._writer, write, self._db, rows, list(notes.values()), ends, more
                )
            except sqlite3.Error as error:
                self._ends = ends + self._ends
                self._notes = {**notes, **self._notes}
                self._marks = {**marks, **self._marks}
                self.openings.give_back(opened)
                self.write_error = str(error)
            else:
                self.write_error = None
                for item in new:
                    item.stored = True
            for item in new:
                item.released = True
            return self.write_error is None

    def close(self) -> None:
        """Let the writer's thread end; what it has begun is finished."""
        self._writer.shutdown(wait=True)

    # -- delivering -------------------------------------------------------------------------

    def heads(self, destination: str) -> list[Item]:
        """What may be sent now: of each dedup key the oldest; critical first, then least tried.

        Among equals the oldest goes first. Trying the least tried first keeps one message that the
        receiver chokes on from standing in the way of all others.
        """
        first: dict[str, Item] = {}
        for item in self._waiting.values():
            if item.destination == destination:
                first.setdefault(item.notification.dedup_key, item)
        ready = (item for item in first.values() if item.released)
        return sorted(ready, key=lambda i: (not i.notification.critical, i.attempts, i.id))

    def failed(self, item: Item, error: str, next_at: UnixTime) -> None:
        """An attempt failed and another will follow."""
        item.attempts += 1
        item.last_error = error
        self._notes[item.id] = (item.attempts, error, next_at, item.id)

    def accepted(self, item: Item, credential: str | None = None) -> None:
        """The receiver has it, or need not be told.

        Args:
            credential: fingerprint of the one that it was sent with, for a receiver that keeps an
                incident for each key; None for others.
        """
        item.attempts += 1
        n = item.notification
        if n.status == "firing" and item.group:
            self._groups.told(item.destination, item.group, self._clock.monotonic())
        if n.status == "resolved":
            self.openings.closed(item.destination, n.dedup_key)
        elif credential is not None:
            opening = Opening(credential, item.digest)
            self.openings.opened(item.destination, n.dedup_key, opening)
        count, _ = self._accepted.get(item.destination, (0, None))
        self._accepted[item.destination] = (count + 1, self._clock.now())
        self._end(item, "accepted", None)

    def joined(self, item: Item) -> None:
        """It needs no message: another one tells of it, or will."""
        if item.notification.status == "resolved":
            self.openings.closed(item.destination, item.notification.dedup_key)
        self._end(item, "superseded", "told with the others of its digest")

    def join(self, items: list[Item], digest: str) -> None:
        """They go in one message. Durable with the next flush."""
        for item in items:
            item.digest = digest
            self._mark(item)

    def part(self, item: Item) -> None:
        """It goes by itself from now on."""
        item.digest, item.alone = "", True
        self._mark(item)

    def fall(self, item: Item) -> None:
        """Its fallback was told."""
        item.fell = True
        self._mark(item)

    def _mark(self, item: Item) -> None:
        self._marks[item.id] = (item.digest, int(item.alone), int(item.fell), item.id)

    def undeliverable(self, item: Item, error: str) -> None:
        """The receiver will never take it."""
        item.attempts += 1
        self._end(item, "undeliverable", error)

    def _end(self, item: Item, how: str, error: str | None) -> None:
        self._waiting.pop(item.id, None)
        if same := self._keys.get(_key_of(item)):
            same.pop(item.id, None)
            if not same:
                del self._keys[_key_of(item)]
        now = self._clock.now()
        if how not in ("accepted", "superseded"):
            self.given_up.append((now, item.destination, how, error or ""))
            del self.given_up[:-1000]
        self._notes.pop(item.id, None)
        self._ends.append((how, now, item.attempts, error, item.id))

    async def prune(self) -> None:
        """Forget what ended long ago."""
        before = self._clock.now() - KEPT_FOR

        def delete(cursor: sqlite3.Cursor) -> None:
            cursor.execute("DELETE FROM outbox WHERE end IS NOT NULL AND ended_at < ?", (before,))

        await self.flush(also=delete)

    # -- reading ----------------------------------------------------------------------------

    def waiting(self, destination: str | None = None) -> list[Item]:
        """Waiting rows, oldest first."""
        return [
            item
            for item in self._waiting.values()
            if destination is None or item.destination == destination
        ]

    def overdue(self, destination: str, after: Seconds) -> list[Item]:
        """What has waited for longer than `after` beyond its group's time and fell back never."""
        before = self._clock.now() - after
        return [
            item
            for item in self._waiting.values()
            if item.destination == destination
            and not item.fell
            and item.created_at + item.held < before
        ]

    def has_same(self, destination: str, item: Item) -> bool:
        """Whether the destination was told by the decision that `item` comes from, too."""
        key, status = item.notification.dedup_key, item.notification.status
        for other in self._of_key(destination, key):
            if (other.notification.status, other.decided_at) == (status, item.decided_at):
                return True
        rows = self._db.query(
            "SELECT 1 FROM outbox WHERE destination = ? AND dedup_key = ? AND status = ?"
            " AND decided_at = ? LIMIT 1",
            (destination, key, status, item.decided_at),
        )
        return bool(rows)

    def delivered(self, destination: str) -> tuple[int, UnixTime | None]:
        """How many the destination has accepted (as far as the ledger reaches), and when last."""
        return self._accepted.get(destination, (0, None))


def _key_of(item: Item) -> tuple[str, str]:
    return item.destination, item.notification.dedup_key
