"""The audit chain as data: records, their keyed hashes, the high-water mark, and the verdict.

Files are read here and written in `agent.audit`. The chain runs through all files of a folder:
`audit.jsonl.1`, `.2`, … (the higher the newer), then `audit.jsonl`; the first record of a file
carries the hash of the last record of the one before. `audit.mark` says, under the same key, which
record the chain must begin with (older files are removed by retention) and which it must reach at
least: so a cut at either end is found as well. A mark may lag behind the records, never lead.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from agent.errors import AgentError, Exit

GENESIS = "0" * 64
LOG, KEY, MARK = "audit.jsonl", "audit.key", "audit.mark"
MARK_BYTES = 512
"""One sector: it reaches a disk whole or not at all."""
TRUNCATED, UNMARKED = "truncated", "unmarked"
"""Outcomes of `audit.repair` that are evidence, not housekeeping."""
_ROTATED = re.compile(r"audit\.jsonl\.([1-9]\d{0,8})")
_LONGEST = 1024 * 1024
_PATIENCE = 100


class AuditError(AgentError):
    """The audit log cannot be written or does not verify."""

    exit_code = Exit.BUG


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the chain: the number of a record and a hash (its own, or its predecessor's)."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the chain begins (`first.hash` is the hash before it) and what it has reached."""

    first: Point
    last: Point


@dataclass(frozen=True, slots=True)
class Verified:
    """What a whole chain holds. `torn` counts bytes of a last line that a kill cut short."""

    records: int
    files: int
    first_seq: int
    last_seq: int
    torn: int = 0


def digest(key: bytes, record: Mapping[str, Any]) -> str:
    """The keyed hash of a record without its `hash`."""
    body = json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
    return hmac.new(key, body, hashlib.sha256).hexdigest()


def line_of(key: bytes, told: Mapping[str, Any], before: Point) -> tuple[bytes, Point]:
    """The next line of the chain after `before`, and the point that it is."""
    record = {**told, "seq": before.seq + 1, "prev": before.hash}
    record["hash"] = digest(key, record)
    return _text(record), Point(record["seq"], record["hash"])


def _text(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def mark_bytes(key: bytes, mark: Mark) -> bytes:
    """The mark's file: one JSON object under the key, padded to its fixed size."""
    told: dict[str, Any] = {
        "first": [mark.first.seq, mark.first.hash],
        "last": [mark.last.seq, mark.last.hash],
    }
    told["hash"] = digest(key, {"mark": told})
    return json.dumps(told).encode().ljust(MARK_BYTES - 1) + b"\n"


def read_mark(key: bytes, data: bytes) -> Mark | None:
    """The mark in `data`, or None where it is not one that this key made."""
    try:
        told = json.loads(data)
        claimed = told.pop("hash")
        if not hmac.compare_digest(claimed, digest(key, {"mark": told})):
            return None
        first, last = told["first"], told["last"]
        return Mark(Point(int(first[0]), str(first[1])), Point(int(last[0]), str(last[1])))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def rotated(directory: Path) -> list[tuple[int, Path]]:
    """The full files of the chain, oldest first, with their numbers."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            match = _ROTATED.fullmatch(entry.name)
            if match:
                found.append((int(match.group(1)), Path(entry.path)))
    return sorted(found)


def records(directory: Path) -> Iterator[dict[str, Any]]:
    """Every record as it stands, unverified, oldest first; a line that is none is left out.

    Raises:
        AuditError: the log cannot be read.
    """
    with ExitStack() as stack:
        files, _, _ = _opened(directory, stack)
        for _, file, size in files:
            for line in _lines(file, size):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record


def verify_chain(directory: Path) -> Verified:
    """Check the whole chain in `directory`, beside a running agent too.

    Raises:
        AuditError: names file and line of the first record that was edited, removed or moved, or
            says that the end is missing.
    """
    with ExitStack() as stack:
        files, key, mark = _opened(directory, stack)
        if key is None:
            raise AuditError(
                f"audit key {directory / KEY} is missing or is not one",
                "restore it from a backup: without it nothing can be verified",
            )
        if mark is None and files:
            raise AuditError(
                f"audit mark {directory / MARK} is missing or is not ours",
                "records may have been cut off at the end: compare with your log archive",
            )
        walk = _Walk(key, mark or Mark(Point(1, GENESIS), Point(0, GENESIS)))
        torn = 0
        for path, file, size in files:
            for number, line in enumerate(_lines(file, size), start=1):
                if not line.endswith(b"\n") and path.name == LOG and len(line) < _LONGEST:
                    torn = len(line)  # a writer was killed; the next one cuts it off and says so
                    break
                walk.take(line, f"{path} line {number}")
        walk.end(directory)
        return Verified(walk.count, len(files), walk.first_seq, walk.last.seq, torn)


class _Walk:
    """One pass over the records in order."""

    def __init__(self, key: bytes, mark: Mark) -> None:
        self._key, self._mark = key, mark
        self.last = Point(0, GENESIS)
        self.count = 0
        self.first_seq = 0
        self._reached = mark.last.seq == 0

    def take(self, line: bytes, where: str) -> None:
        try:
            record = json.loads(line)
            good = line == _text(record)  # one form: no byte of a line is free to change
            told = record.pop("hash")
            seq, prev = record["seq"], record["prev"]
            good = good and isinstance(seq, int) and isinstance(told, str)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise AuditError(f"audit log {where} is not a record") from None
        if self.count == 0:
            self.first_seq = seq if good else 0
            good = good and 1 <= seq <= self._mark.first.seq and (seq > 1 or prev == GENESIS)
        else:
            good = good and seq == self.last.seq + 1 and prev == self.last.hash
        if good and seq == self._mark.first.seq:
            good = prev == self._mark.first.hash
        if not good or not hmac.compare_digest(told.encode(), digest(self._key, record).encode()):
            raise AuditError(
                f"audit log {where} breaks the chain",
                "a record there was edited, removed or moved: compare with your log archive",
            )
        if record.get("action") == "audit.repair" and record["outcome"] in (TRUNCATED, UNMARKED):
            raise AuditError(
                f"audit log {where}: the agent found at this point that "
                + ("the end was cut off" if record["outcome"] == TRUNCATED else "its mark was gone")
                + f" ({json.dumps(record.get('detail'))})",
                "compare with your log archive; then move all audit.* aside to begin a new chain",
            )
        self.last = Point(seq, told)
        self.count += 1
        if seq == self._mark.last.seq:
            self._reached = told == self._mark.last.hash

    def end(self, directory: Path) -> None:
        if not self._reached:
            raise AuditError(
                f"audit log in {directory} ends at record {self.last.seq} and had reached "
                f"{self._mark.last.seq}",
                "records were cut off at the end: compare with your log archive",
            )


_Files = list[tuple[Path, BinaryIO, int]]


def _opened(directory: Path, stack: ExitStack) -> tuple[_Files, bytes | None, Mark | None]:
    """All files of the chain as of one moment, the key and the mark. A writer waits meanwhile, and
    no longer than that: what it adds later is beyond the sizes taken."""
    try:
        key = _key(directory)
        path = directory / LOG
        current = _locked(path, stack)
        try:
            files: _Files = [
                (old, stack.enter_context(old.open("rb")), old.stat().st_size)
                for _, old in rotated(directory)
            ]
            files.append((path, current, os.fstat(current.fileno()).st_size))
            try:
                mark = read_mark(key, (directory / MARK).read_bytes()) if key else None
            except FileNotFoundError:
                mark = None
        finally:
            fcntl.flock(current, fcntl.LOCK_UN)
    except OSError as error:
        raise AuditError(
            f"audit log {directory / LOG} cannot be read: {error.strerror}",
            "name the agent's state folder, and read it as the agent's uid",
        ) from error
    return files, key, mark


def _locked(path: Path, stack: ExitStack) -> BinaryIO:
    """The current file, open and locked against writers. It is missing for a moment while another
    process rotates it."""
    for attempt in range(_PATIENCE):
        try:
            file = stack.enter_context(path.open("rb"))
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            if attempt == _PATIENCE - 1 or not rotated(path.parent):
                raise
            time.sleep(0.01)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _key(directory: Path) -> bytes | None:
    try:
        key = (directory / KEY).read_bytes()
    except FileNotFoundError:
        return None
    return key if len(key) == 32 else None


def _lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Lines of the first `size` bytes; none is longer than the bound, beyond which it is none."""
    left = size
    while left > 0:
        line = file.readline(min(_LONGEST, left))
        if not line:
            return
        left -= len(line)
        yield line
