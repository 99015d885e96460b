"""Each opcode of pickle: how its argument is read, and what it does to the machine."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from agent.bundles.machine import MADE, MARK, Machine, MalformedError, Named, Source, StorageRef

MAX_PROTOCOL = 5


def _push(machine: Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _push_made(machine: Machine, argument: Any) -> None:
    machine.stack.append(MADE)


def _nothing(machine: Machine, argument: Any) -> None:
    pass


def _proto(machine: Machine, version: int) -> None:
    if version > MAX_PROTOCOL:
        raise MalformedError(f"protocol {version} is not known")


def _frame(machine: Machine, length: int) -> None:
    if length > machine.source.left:
        raise MalformedError(f"a frame of {length} bytes is beyond the end")


def _skipped(width: int) -> Callable[[Source], None]:
    def read(source: Source) -> None:
        source.skip(int.from_bytes(source.read(width), "little"))

    return read


def _mark(machine: Machine, argument: Any) -> None:
    machine.stack.append(MARK)


def _pop(machine: Machine, argument: Any) -> None:
    if not machine.stack:
        raise MalformedError("POP of an empty stack")
    machine.stack.pop()


def _pop_mark(machine: Machine, argument: Any) -> None:
    machine.pop_mark()


def _dup(machine: Machine, argument: Any) -> None:
    top = machine.pop()
    machine.stack += [top, top]


def _tuple(count: int) -> Callable[[Machine, Any], None]:
    def act(machine: Machine, argument: Any) -> None:
        items = tuple([machine.pop() for _ in range(count)][::-1])
        machine.stack.append(items)

    return act


def _tuple_mark(machine: Machine, argument: Any) -> None:
    machine.stack.append(tuple(machine.pop_mark()))


def _made_of_mark(machine: Machine, argument: Any) -> None:
    machine.pop_mark()
    machine.stack.append(MADE)


def _into(count: int) -> Callable[[Machine, Any], None]:
    def act(machine: Machine, argument: Any) -> None:
        for _ in range(count):
            machine.pop()
        target = machine.pop()
        machine.change(target)
        machine.stack.append(target)

    return act


def _into_mark(machine: Machine, argument: Any) -> None:
    machine.pop_mark()
    target = machine.pop()
    machine.change(target)
    machine.stack.append(target)


def _put(machine: Machine, index: int) -> None:
    # a reader in C makes a table as long as the largest index: one per opcode is all there can be
    if not 0 <= index <= machine.seen.opcodes:
        raise MalformedError(f"memo index {index} is out of order")
    top = machine.pop()
    machine.memo[index] = top
    machine.stack.append(top)


def _memoize(machine: Machine, argument: Any) -> None:
    _put(machine, len(machine.memo))


def _get(machine: Machine, index: int) -> None:
    if index not in machine.memo:
        raise MalformedError(f"memo index {index} was never stored")
    machine.stack.append(machine.memo[index])


def _global(machine: Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.name(module, name)


def _stack_global(machine: Machine, argument: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise machine.fault("a global is named by something that is not constant")
    machine.name(module, name)


def _reduce(machine: Machine, argument: Any) -> None:
    machine.pop()
    machine.call(machine.pop())


def _newobj_ex(machine: Machine, argument: Any) -> None:
    machine.pop()
    _reduce(machine, argument)


def _inst(machine: Machine, argument: str) -> None:
    machine.pop_mark()
    _global(machine, argument)
    machine.call(machine.pop())


def _obj(machine: Machine, argument: Any) -> None:
    items = machine.pop_mark()
    if not items:
        raise MalformedError("OBJ without a class")
    machine.call(items[0])


def _persistent(machine: Machine, argument: Any) -> None:
    pid = machine.pop()
    if not machine.allowed.storages:
        raise machine.fault("a persistent id, which only a .pt file may have")
    match pid:
        case ("storage", (Named() | str()) as kind, str() as key, str(), int() as elements):
            name = kind.name if isinstance(kind, Named) else kind
            machine.seen.storages.append(StorageRef(name, key, elements))
        case _:
            raise machine.fault("a persistent id that is not a tensor's storage")
    machine.stack.append(MADE)


def _never(machine: Machine, argument: Any) -> None:
    raise machine.fault("an opcode that is refused (extension, byte string or buffer)")


class Step(NamedTuple):
    """What to do about one opcode: how its argument is read, then what it does."""

    name: str
    reader: Callable[[Source], Any] | None
    act: Callable[[Machine, Any], None]


_CONSTANTS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)
_VALUES = (
    *("NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_ACTS: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(
        _CONSTANTS,
        _push,
    ),
    **dict.fromkeys(
        _VALUES,
        _push_made,
    ),
    **dict.fromkeys(["LIST", "DICT", "FROZENSET"], _made_of_mark),
    **dict.fromkeys(["APPENDS", "SETITEMS", "ADDITEMS"], _into_mark),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], _put),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], _get),
    **dict.fromkeys(["REDUCE", "NEWOBJ"], _reduce),
    "EMPTY_TUPLE": _tuple(0),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": _tuple_mark,
    "APPEND": _into(1),
    "BUILD": _into(1),
    "SETITEM": _into(2),
    "MEMOIZE": _memoize,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "NEWOBJ_EX": _newobj_ex,
    "INST": _inst,
    "OBJ": _obj,
    "BINPERSID": _persistent,
    "MARK": _mark,
    "POP": _pop,
    "POPMARK": _pop_mark,
    "DUP": _dup,
    "PROTO": _proto,
    "FRAME": _frame,
    "STOP": _nothing,
}
_SKIPS = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}


def _step(opcode: pickletools.OpcodeInfo) -> Step:
    act = _ACTS.get(opcode.name, _never)
    if opcode.name in _SKIPS:
        return Step(opcode.name, _skipped(_SKIPS[opcode.name]), act)
    if opcode.arg is None or act is _never:
        return Step(opcode.name, None, act)
    # the readers ask for read and readline only, which a Source has
    return Step(opcode.name, cast("Callable[[Source], Any]", opcode.arg.reader), act)


STEPS = {opcode.code.encode("latin-1"): _step(opcode) for opcode in pickletools.opcodes}
