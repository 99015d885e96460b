"""Judge a pickle by walking its opcodes: nothing is imported, nothing is unpickled.

The walk keeps the shape of what the unpickler's stack and memo would hold, so that the two strings
of a STACK_GLOBAL are known even when they come through the memo. What may be named is a list
(`agent.bundles.allowed`); what is called must be one of the things named. Refused, besides any
other name: names that are not constants, the extension registry, Python 2 byte strings,
out-of-band buffers, calls of anything but a named global, a change to a named global itself, and
whatever is cut short, over-long, or does not end in one object. Bytes are skipped, not read; a
length is believed only as far as the file goes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

from agent.bundles.allowed import Allowed
from agent.bundles.errors import RejectedError
from agent.bundles.machine import Machine, MalformedError, Source, Walked
from agent.bundles.opcodes import STEPS

MAX_OPCODES = 1_000_000
MAX_PROBE = 100_000
"""Opcodes looked at in a record that nobody calls a pickle."""


MAX_TOTAL = 4_000_000
"""Opcodes looked at in all pickles of one bundle: some seconds at most."""


@dataclass(slots=True)
class Budget:
    """What may still be looked at, shared by the walks of one bundle."""

    opcodes: int = MAX_TOTAL


def walk(
    file: BinaryIO,
    start: int,
    size: int,
    where: str,
    allowed: Allowed,
    budget: Budget | None = None,
) -> Walked:
    """Walk the pickle in `size` bytes of `file` from `start`, to its STOP.

    Raises:
        RejectedError: it names what is not `allowed`, or is no sound pickle; tells `where`,
            offset and name.
        OSError: the file cannot be read.
    """
    machine = Machine(Source(file, start, size), where, allowed, lazy=False)
    try:
        return _run(machine, MAX_OPCODES, budget)
    except MalformedError as error:
        raise RejectedError(
            f"{where}: no sound pickle at offset {machine.at}: {error}",
            "save the file again with pickle.dump (protocol 2 to 5, not packed) or torch.save",
        ) from None


def probe(
    file: BinaryIO,
    start: int,
    size: int,
    where: str,
    allowed: Allowed,
    budget: Budget | None = None,
) -> Walked | None:
    """Walk bytes that may or may not be a pickle; None when no unpickler would get anywhere.

    Raw numbers and text can begin like a pickle, so what breaks before it calls a bad global is
    taken for what it is. Bytes that begin with a protocol mark are refused at the first bad name.

    Raises:
        RejectedError: it is a pickle, and not one that is allowed.
    """
    source = Source(file, start, size)
    if size == 0:
        return None
    marked = size > 1 and file.read(2)[:1] == b"\x80"
    file.seek(start)
    try:
        return _run(Machine(source, where, allowed, lazy=not marked), MAX_PROBE, budget)
    except MalformedError:
        return None


def walk_bytes(data: bytes, where: str, allowed: Allowed) -> Walked:
    """`walk` over bytes in memory."""
    return walk(io.BytesIO(data), 0, len(data), where, allowed)


def _run(machine: Machine, limit: int, budget: Budget | None) -> Walked:
    if budget is None:
        return _walk(machine, limit)
    try:
        return _walk(machine, min(limit, budget.opcodes))
    finally:
        budget.opcodes = max(0, budget.opcodes - machine.seen.opcodes)


def _walk(machine: Machine, limit: int) -> Walked:
    source, steps, seen = machine.source, STEPS, machine.seen
    while True:
        machine.at = source.tell()
        code = source.read(1)
        step = steps.get(code)
        if step is None:
            raise MalformedError(f"{code!r} is no opcode")
        seen.opcodes += 1
        if seen.opcodes > limit:
            raise RejectedError(
                f"{machine.where}: more opcodes than are walked ({limit} were left)",
                "ship large data as arrays or tensors, not as many small objects",
            )
        if code == b".":
            machine.pop()
            if machine.stack:
                raise MalformedError("it ends with more than one object")
            if machine.bad is not None:
                raise machine.bad
            seen.size = source.tell()
            return seen
        argument = None
        if step.reader is not None:
            try:
                argument = step.reader(source)
            except (ValueError, OverflowError) as error:
                raise MalformedError(f"{step.name}: {error}") from None
        step.act(machine, argument)
