"""An append-only record of who did what and why, each line chained to the one before.

`audit.jsonl` holds one JSON object a line; `hash` is HMAC-SHA256 over the line without it, and the
line carries its predecessor's hash, so that an edit, a deletion or a reordering is found by
`verify`. The key lies beside the state, mode 0600: who can read it can forge, so the chain guards
against everyone but the agent's own uid. No record ever holds a secret value.

How a record is added, under an exclusive lock of the file that other processes honour:
1. where the file was rotated by another process meanwhile: open the new one
2. where it would grow past `max_size`: rename it to `audit.jsonl.N` and begin the next; its first
   record carries the last hash of the old. Files beyond `keep` go, oldest first, after the mark has
   said durably that the chain now begins later
3. write all lines in one go, one fsync; a failure cuts back to where it began
4. note the newest record in `audit.mark`, so that a later cut at the end is found

A line torn by a kill in the middle of its write is cut off at the next start and noted as a record
of its own; so is an end that the mark knows and the log has lost. `agent.auditchain` has the rules.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import fs
from agent.auditchain import (
    GENESIS,
    KEY,
    LOG,
    MARK,
    MARK_BYTES,
    TRUNCATED,
    UNMARKED,
    AuditError,
    Mark,
    Point,
    line_of,
    mark_bytes,
    read_mark,
    rotated,
    verify_chain,
)
from agent.clock import Clock, SystemClock
from agent.health import Condition
from agent.units import Bytes, UnixTime

__all__ = ["AuditError", "AuditLog", "Record", "verify"]

MAX_SIZE = Bytes(16 * 1024 * 1024)
KEEP = 16
_KEY_BYTES = 32
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that was done, or tried.

    `actor` is who (`agent`, `init`, `operator`, `library`), `action` what (`secret.read`),
    `subject` on what, `outcome` how it ended in one word, `why` what asked for it, `detail` more:
    JSON-able, never a secret value.
    """

    actor: str
    action: str
    subject: str
    outcome: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    def told(self, now: UnixTime) -> dict[str, Any]:
        told = {
            "at": round(now, 6),
            "actor": self.actor,
            "action": self.action,
            "subject": self.subject,
            "outcome": self.outcome,
            "detail": dict(self.detail),
        }
        return {**told, "why": self.why} if self.why else told


class AuditLog:
    """The chain in `directory`. Safe from any thread and beside other processes that append."""

    def __init__(
        self,
        directory: Path,
        clock: Clock | None = None,
        *,
        max_size: Bytes = MAX_SIZE,
        keep: int = KEEP,
        fail_closed: bool = True,
    ) -> None:
        """Open or begin the chain. `fail_closed` is for those who hand out what must be recorded:
        whether they refuse when it cannot be.

        Raises:
            AuditError: the folder or the key is not usable.
        """
        self.directory, self.path = directory, directory / LOG
        self.fail_closed = fail_closed
        self.problem: AuditError | None = None
        """Why the last append failed; None when it did not."""
        self._clock = clock or SystemClock()
        self._max_size, self._keep = max_size, keep
        self._lock = threading.Lock()
        self._lost = 0
        try:
            self._key = _load_key(directory / KEY)
            self._fd = os.open(self.path, _FLAGS | os.O_APPEND, 0o600)
            try:
                self._mark_fd = os.open(directory / MARK, _FLAGS, 0o600)
                try:
                    self._begin()
                except BaseException:
                    os.close(self._mark_fd)
                    raise
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise AuditError(
                f"audit log {self.path} cannot be opened: {error.strerror}",
                "make the folder writable for the agent's uid, or free space on its volume",
            ) from error

    def append(
        self,
        actor: str,
        action: str,
        subject: str,
        outcome: str,
        detail: Mapping[str, Any] | None = None,
        *,
        why: str = "",
    ) -> None:
        """Add one record (see `Record`), on disk when this returns. Raises as `append_many`."""
        self.append_many([Record(actor, action, subject, outcome, detail or {}, why)])

    def append_many(self, records: Sequence[Record]) -> None:
        """Add records in order with one sync: all of them are on disk when this returns.

        Raises:
            AuditError: none is on disk; the caller decides whether to go on.
        """
        if not records:
            return
        now = self._clock.now()
        with self._lock:
            try:
                with self._held():
                    self._write([record.told(now) for record in records])
            except OSError as error:
                self._lost += len(records)
                self.problem = AuditError(
                    f"audit log {self.path} cannot be written: {error.strerror}",
                    "free space on its volume; nothing was recorded",
                )
                raise AuditError(str(self.problem), self.problem.remedy) from error
            self.problem, self._lost = None, 0

    def retry(self) -> bool:
        """After a failure: try to write again, a record of how many were lost; True if it worked.

        For a timer, so that a log which has recovered is not reported until the next access.
        """
        if self.problem is None:
            return True
        try:
            self.append("agent", "audit.resume", str(self.path), "ok", {"lost": self._lost})
        except AuditError:
            self._lost -= 1
            return False
        return True

    def condition(self) -> Condition:
        """Whether records can be written; counts against readiness where reads are refused."""
        problem = self.problem
        return Condition(
            "audit",
            ok=problem is None,
            reason=str(problem) if problem else "records are written",
            remedy=problem.remedy if problem else "",
            gates_ready=self.fail_closed,
        )

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._mark_fd)

    # -- under the lock ---------------------------------------------------------------------

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the current file against other processes, whoever rotates it."""
        self._lock_current()
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _lock_current(self) -> None:
        while True:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                if os.path.samestat(os.fstat(self._fd), os.stat(self.path)):
                    return
            except FileNotFoundError:
                pass
            self._reopen()

    def _reopen(self) -> None:
        fresh = os.open(self.path, _FLAGS | os.O_APPEND, 0o600)
        os.close(self._fd)  # lets go of the lock too
        self._fd, self._end = fresh, -1

    def _begin(self) -> None:
        self._end = -1
        with self._held():  # a line being written elsewhere is not torn
            torn = _cut_torn_tail(self._fd)
            marked = read_mark(self._key, os.pread(self._mark_fd, MARK_BYTES, 0)) is not None
            repairs = self._catch_up()
            if torn:
                repairs.insert(0, self._repair("cut", {"bytes": torn}))
            if not marked and self._last.seq:
                repairs.append(self._repair(UNMARKED, {"found": self._last.seq}))
            if repairs:
                self._write([record.told(self._clock.now()) for record in repairs])
            elif not marked:
                self._set_mark()

    def _catch_up(self) -> list[Record]:
        """Learn where the chain ends now; a record to be added if that is before the mark."""
        self._last = self._tail()
        self._end = os.fstat(self._fd).st_size
        mark = read_mark(self._key, os.pread(self._mark_fd, MARK_BYTES, 0))
        self._first = mark.first if mark is not None else self._oldest()
        if mark is None or mark.last.seq <= self._last.seq:
            return []
        lost = {"reached": mark.last.seq, "found": self._last.seq}
        return [self._repair(TRUNCATED, lost)]

    def _repair(self, outcome: str, detail: Mapping[str, Any]) -> Record:
        return Record("agent", "audit.repair", str(self.path), outcome, detail)

    def _write(self, told: Sequence[Mapping[str, Any]]) -> None:
        end = os.fstat(self._fd).st_size
        if end != self._end:  # another process has appended: its last record is our predecessor
            now = self._clock.now()
            told = [*(record.told(now) for record in self._catch_up()), *told]
        lines, last = self._lines(told)
        if end and end + len(lines) > self._max_size:
            self._rotate()
            self._catch_up()  # another process may have been the first in the new file
            end = self._end
            lines, last = self._lines(told)
        try:
            fs.write_all(self._fd, lines)
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, end)  # half a line would read as tampering
            raise
        self._last, self._end = last, end + len(lines)
        self._set_mark()

    def _lines(self, told: Sequence[Mapping[str, Any]]) -> tuple[bytes, Point]:
        lines, last = bytearray(), self._last
        for record in told:
            line, last = line_of(self._key, record, last)
            lines += line
        return bytes(lines), last

    def _rotate(self) -> None:
        """Rename the current file, whose lock is ours, and go on in the next."""
        files = rotated(self.directory)
        number = files[-1][0] + 1 if files else 1
        fs.rename_durable(self.path, self.path.with_name(f"{LOG}.{number}"))
        self._reopen()
        self._lock_current()
        fs.fsync_dir(self.directory)
        files = rotated(self.directory)
        gone = files[: max(0, len(files) - self._keep)]
        if gone:
            self._first = _first_point(files[len(gone)][1] if len(files) > len(gone) else None)
            self._set_mark()
            os.fsync(self._mark_fd)  # before the files go: else a power cut would look like a theft
            for _, path in gone:
                os.unlink(path)

    def _set_mark(self) -> None:
        """Not synced: the mark may lag behind the log, which is synced before."""
        os.pwrite(self._mark_fd, mark_bytes(self._key, Mark(self._first, self._last)), 0)

    def _oldest(self) -> Point:
        files = rotated(self.directory)
        return _first_point(files[0][1]) if files else Point(1, GENESIS)

    def _tail(self) -> Point:
        """The last record of the chain: of the current file, else of the newest full one."""
        found = _last_point(self._fd)
        if found is None:
            files = rotated(self.directory)
            if not files:
                return Point(0, GENESIS)
            fd = os.open(files[-1][1], os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                found = _last_point(fd)
            finally:
                os.close(fd)
        if found is None:
            raise _unreadable()
        return found


def verify(directory: Path) -> int:
    """Check the whole chain in `directory` and return how many records it holds.

    Raises:
        AuditError: names the first line that was edited, removed or moved.
    """
    return verify_chain(directory).records


def _load_key(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(_KEY_BYTES)
        fs.write_durable(path, key, 0o600)
    if len(key) != _KEY_BYTES:
        raise AuditError(f"audit key {path} is not {_KEY_BYTES} bytes", "restore it from a backup")
    return key


def _cut_torn_tail(fd: int) -> int:
    """Cut what follows the last newline; return how many bytes that was."""
    size = os.fstat(fd).st_size
    keep = size
    while keep > 0:
        start = max(0, keep - 65536)
        chunk = os.pread(fd, keep - start, start)
        newline = chunk.rfind(b"\n")
        if newline >= 0:
            keep = start + newline + 1
            break
        keep = start
    if keep != size:
        os.ftruncate(fd, keep)
        os.fsync(fd)
    return size - keep


def _last_point(fd: int) -> Point | None:
    """The last record of one file; None where it is empty."""
    size = os.fstat(fd).st_size
    if size == 0:
        return None
    start, block = size, b""
    while start > 0 and block.count(b"\n") < 2:
        step = max(0, start - 65536)
        block = os.pread(fd, start - step, step) + block
        start = step
    try:
        record = json.loads(block.splitlines()[-1])
        return Point(int(record["seq"]), str(record["hash"]))
    except (ValueError, KeyError, TypeError, IndexError):
        raise _unreadable() from None


def _first_point(path: Path | None) -> Point:
    """Number of the first record of a file and the hash before it."""
    if path is None:
        raise _unreadable()
    try:
        with path.open("rb") as file:
            record = json.loads(file.readline())
        return Point(int(record["seq"]), str(record["prev"]))
    except (ValueError, KeyError, TypeError):
        raise _unreadable() from None


def _unreadable() -> AuditError:
    return AuditError(
        "the last record of the audit log is not readable",
        "run `jules-agent secrets audit verify`, keep the files, then move audit.* aside",
    )
