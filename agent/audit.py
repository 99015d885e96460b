"""An append-only record of who did what, each line chained to the one before.

`audit.jsonl` holds one JSON object a line; `hash` is HMAC-SHA256 over the line without it, and the
line carries its predecessor's hash, so that an edit, a deletion or a reordering is found by
`verify`. The key lies beside the state, mode 0600: who can read it can forge, so the chain guards
against everyone but the agent's own uid. A line torn by a kill in the middle of its write is cut
off at the next start and noted as a record of its own. No record ever holds a secret value.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent import fs
from agent.clock import Clock, SystemClock
from agent.errors import AgentError, Exit

_GENESIS = "0" * 64
_KEY_BYTES = 32


class AuditError(AgentError):
    """The audit log cannot be written or does not verify."""

    exit_code = Exit.BUG


class AuditLog:
    """The chain in `directory`. Safe from any thread and beside other processes that append."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        """Open or begin the chain.

        Raises:
            AuditError: the folder or the key is not usable.
        """
        self.path = directory / "audit.jsonl"
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        try:
            self._key = _load_key(directory / "audit.key")
            self._fd = os.open(
                self.path,
                os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # a line being written elsewhere is not torn
            try:
                torn = _cut_torn_tail(self._fd)
                self._seq, self._last = _tail(self._fd)
                self._end = os.fstat(self._fd).st_size
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError as error:
            raise AuditError(
                f"audit log {self.path} cannot be opened: {error.strerror}",
                "make the folder writable for the agent's uid, or free space on its volume",
            ) from error
        if torn:
            self.append("agent", "audit.repair", str(self.path), "cut", {"bytes": torn})

    def append(
        self,
        actor: str,
        action: str,
        subject: str,
        outcome: str,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one record, on disk when this returns.

        Args:
            actor: who: `agent`, `operator`, `library`.
            action: what, as `job.verb`: `bundle.transition`, `secret.read`.
            subject: on what: a secret's name, a version.
            outcome: how it ended, one word.
            detail: more, JSON-able, never a secret value.

        Raises:
            AuditError: the line is not on disk; the caller decides whether to go on.
        """
        told = {
            "at": round(self._clock.now(), 6),
            "actor": actor,
            "action": action,
            "subject": subject,
            "outcome": outcome,
            "detail": dict(detail or {}),
        }
        with self._lock:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                try:
                    self._append(told)
                finally:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError as error:
                raise AuditError(
                    f"audit log {self.path} cannot be written: {error.strerror}",
                    "free space on its volume; nothing was recorded",
                ) from error

    def _append(self, told: dict[str, Any]) -> None:
        end = os.fstat(self._fd).st_size
        if end != self._end:  # another process has appended: its last record is our predecessor
            self._seq, self._last = _tail(self._fd)
        record = {**told, "seq": self._seq + 1, "prev": self._last}
        record["hash"] = _digest(self._key, record)
        line = json.dumps(record, separators=(",", ":"), sort_keys=True).encode() + b"\n"
        try:
            fs.write_all(self._fd, line)
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, end)  # half a line would read as tampering
            raise
        self._seq, self._last, self._end = record["seq"], record["hash"], end + len(line)

    def close(self) -> None:
        os.close(self._fd)


def verify(directory: Path) -> int:
    """Check the whole chain in `directory` and return how many records it holds.

    Raises:
        AuditError: names the first line that was edited, removed or moved.
    """
    path = directory / "audit.jsonl"
    try:
        key = (directory / "audit.key").read_bytes()
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise AuditError(f"audit log {path} cannot be read: {error.strerror}") from error
    last, seq = _GENESIS, 0
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            told = record.pop("hash")
            good = record["prev"] == last and record["seq"] == seq + 1
        except (ValueError, KeyError, TypeError, AttributeError):
            raise AuditError(f"audit log {path} line {number} is not a record") from None
        if not good or not hmac.compare_digest(told, _digest(key, record)):
            raise AuditError(
                f"audit log {path} line {number} breaks the chain",
                "a record there was edited, removed or moved: compare with your log archive",
            )
        last, seq = told, record["seq"]
    return seq


def _digest(key: bytes, record: Mapping[str, Any]) -> str:
    body = json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
    return hmac.new(key, body, hashlib.sha256).hexdigest()


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


def _tail(fd: int) -> tuple[int, str]:
    """Sequence number and hash of the last record."""
    size = os.fstat(fd).st_size
    if size == 0:
        return 0, _GENESIS
    start, block = size, b""
    while start > 0 and block.count(b"\n") < 2:
        step = max(0, start - 65536)
        block = os.pread(fd, start - step, step) + block
        start = step
    try:
        record = json.loads(block.splitlines()[-1])
        return int(record["seq"]), str(record["hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise AuditError(
            "the last record of the audit log is not readable",
            "run `jules-agent secrets audit verify`, keep the file, then move it aside",
        ) from error
