"""What an unpickler would hold while it reads: a stack, a memo, and nothing real in either.

Constants stand for themselves, tuples for their items, a global for its name; everything else that
would be built is one and the same `MADE`. The machine judges: what is named must be allowed, what
is called must be named, and what is changed must have been built here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from agent.bundles.allowed import Allowed, remedy
from agent.bundles.errors import RejectedError

MAX_TEXT = 1024**2
"""Longest string or number, in bytes; only bytes and arrays may be longer."""

_IMPORTABLE = re.compile(r"\w+(\.\w+)*")


class Named(NamedTuple):
    """A global on the stack."""

    module: str
    name: str


class _Mark:
    """The mark on the stack."""


class _Made:
    """Whatever was built on the stack and is neither constant, tuple nor global."""


MARK, MADE = _Mark(), _Made()


class StorageRef(NamedTuple):
    """A tensor's bytes, as a persistent id names them."""

    kind: str
    key: str
    elements: int


class MalformedError(Exception):
    """These bytes are no pickle, or a broken one."""


@dataclass(slots=True)
class Walked:
    """What a walk saw."""

    size: int = 0
    """Bytes up to and with STOP."""
    opcodes: int = 0
    storages: list[StorageRef] = field(default_factory=list)


class Source:
    """`size` bytes of `file` from `start`, read as `pickletools` reads, never beyond the end."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._end = file, start, start + size
        self._at = start
        file.seek(start)

    def tell(self) -> int:
        return self._at - self._start

    def read(self, count: int) -> bytes:
        if not 0 <= count <= min(MAX_TEXT, self._end - self._at):
            raise MalformedError(f"a length of {count} bytes is too much or beyond the end")
        data = self._file.read(count)
        if len(data) != count:
            raise MalformedError("the file became shorter while it was read")
        self._at += count
        return data

    def readline(self) -> bytes:
        line = self._file.readline(min(MAX_TEXT, self._end - self._at))
        if not line.endswith(b"\n"):
            raise MalformedError("a text does not end")
        self._at += len(line)
        return line

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return self._end - self._at

    def skip(self, count: int) -> None:
        if count > self._end - self._at:
            raise MalformedError(f"a length of {count} bytes is beyond the end")
        self._at += count
        self._file.seek(self._at)


class Machine:
    """Stack and memo of one walk.

    `lazy` is for bytes that may be no pickle at all: a bad name is put off until something is
    done with it, and what no unpickler would get past is malformed rather than refused.
    """

    def __init__(self, source: Source, where: str, allowed: Allowed, *, lazy: bool) -> None:
        self.source, self.where, self.allowed, self.lazy = source, where, allowed, lazy
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.seen = Walked()
        self.at = 0
        self.bad: RejectedError | None = None
        self.names = 0

    def fault(self, what: str) -> Exception:
        """Something that only an attack has; in bytes that named nothing yet, mere chance."""
        return MalformedError(what) if self.lazy and not self.names else self.refuse(what)

    def refuse(self, what: str, remedy: str = "") -> RejectedError:
        return RejectedError(
            f"{self.where}: offset {self.at}: {what}",
            remedy or "no library whose files are accepted writes that; do not load the file",
        )

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise MalformedError("an opcode takes more than the stack holds")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise MalformedError("an opcode needs a mark that is not there")

    def name(self, module: str, name: str) -> None:
        """A global is named: judge it and put it on the stack."""
        if self.lazy and not (_IMPORTABLE.fullmatch(module) and _IMPORTABLE.fullmatch(name)):
            raise MalformedError("a name that nothing has")
        self.names += 1
        if (module, name) not in self.allowed:
            shown = f"{module[:100]}.{name[:100]}".encode("unicode_escape").decode()
            error = self.refuse(f"{shown} is not allowed", remedy(module, name))
            if not self.lazy:
                raise error
            self.bad = self.bad or error
        self.stack.append(Named(module, name))

    def call(self, function: Any) -> None:
        """Something is called, and its result is on the stack."""
        if self.bad is not None:
            raise self.bad
        if not isinstance(function, Named):
            raise self.fault("something is called that is not a named global")
        self.stack.append(MADE)

    def change(self, target: Any) -> None:
        """The object is changed in place: never a global, which is shared by the whole process."""
        if self.bad is not None:
            raise self.bad
        if isinstance(target, Named):
            raise self.refuse(f"{target.module}.{target.name} itself would be changed")
        if target is not MADE:
            raise MalformedError("a constant cannot be changed")
