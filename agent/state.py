"""What the agent remembers across a restart: one SQLite file, shared by the three jobs.

The file system is the truth about what is live; this file only remembers (history, the outbox, the
alerts' states). Write-ahead log with `synchronous=FULL`, so that a committed row survives a power
cut: measured at 0.2 ms a commit. The module knows no job: each brings its own tables through
`migrate`. A file that SQLite calls corrupt is set aside under a name that says so and a new one is
begun: a broken memory must not keep the next page from going out.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.clock import Clock, SystemClock
from agent.errors import AgentError


class StateError(AgentError):
    """The state file cannot be opened."""


class StateDB:
    """One connection, one lock: safe to use from the loop and from worker threads."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        """Open `path`, making it (mode 0600) if missing. `set_aside` names a corrupt predecessor.

        Raises:
            StateError: the folder is missing, full or not writable.
        """
        self.path = path
        self.set_aside: Path | None = None
        self._lock = threading.RLock()
        try:
            self._connection = self._open_sound(clock or SystemClock())
        except (OSError, sqlite3.Error) as error:
            raise StateError(
                f"state file {path} cannot be opened: {error}",
                "free space on its volume, make it writable for the agent's uid, or set state_dir",
            ) from error

    def _open_sound(self, clock: Clock) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            path = self.path
            self.set_aside = path.with_name(f"{path.name}.corrupt-{int(clock.now())}")
            path.rename(self.set_aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return self._open()

    def _open(self) -> sqlite3.Connection:
        self.path.touch(mode=0o600, exist_ok=True)
        connection = sqlite3.connect(
            self.path, timeout=5.0, isolation_level=None, check_same_thread=False
        )
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_steps "
                "(component TEXT PRIMARY KEY, step INTEGER NOT NULL)"
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def migrate(self, component: str, steps: Sequence[str]) -> None:
        """Bring `component`'s tables up to date: run the SQL steps that have not run yet, in order.

        A step, once released, never changes; a new one is appended.
        """
        with self.transaction() as cursor:
            row = cursor.execute(
                "SELECT step FROM schema_steps WHERE component = ?", (component,)
            ).fetchone()
            done = row["step"] if row else 0
            for statement in steps[done:]:
                cursor.execute(statement)
            cursor.execute(
                "INSERT INTO schema_steps VALUES (?, ?) "
                "ON CONFLICT(component) DO UPDATE SET step = excluded.step",
                (component, max(done, len(steps))),
            )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        """All statements of the body are committed together and durably, or none is."""
        with self._lock:
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            else:
                cursor.execute("COMMIT")
            finally:
                cursor.close()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a read-only statement."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Fold the log into the file and close it."""
        with self._lock:
            self._connection.close()
