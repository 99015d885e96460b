"""Read a zip archive so strictly that no two readers can see different things in it.

Archives lie by disagreeing with themselves: a local header that says something other than the
directory, members that overlap, bytes that no member owns, a flag that one reader obeys and another
ignores. So the whole file must be accounted for: members in order from byte 0, each header equal to
its directory entry, then the directory, then its end, and nothing else. What is accepted is what
PyTorch (miniz) and Python write: stored or deflated members, sizes before or after the data, zip64.
Source: APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from agent.bundles.errors import RejectedError
from agent.bundles.folders import check_distinct, check_path

MAX_MEMBERS = 100_000
MAX_DEPTH = 32
"""TorchScript names a folder for each package of a module's path."""
MAX_DIRECTORY = 64 * 1024**2
MAX_INFLATED = 64 * 1024**2
"""Largest deflated member: only source text and debug records are ever deflated."""
CHUNK = 1024**2

_STORED, _DEFLATED = 0, 8
_LATE_SIZES, _UTF8 = 0x8, 0x800
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_SMALL, _LARGE = 0xFFFF, 0xFFFFFFFF
_UNIX = 3

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive; `start` is where its bytes are, `packed` how many they are."""

    name: str
    header: int
    start: int
    packed: int
    size: int
    crc: int
    deflated: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    """A member as the directory tells it."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


def read_members(file: BinaryIO, size: int, where: str) -> list[Member]:
    """The members of the archive that is the whole of `file`, in the order of their bytes.

    Raises:
        RejectedError: it is not an archive of which every byte is accounted for; `where` names it.
        OSError: it cannot be read.
    """
    try:
        begin, length, count = _find_directory(file, size)
        entries = _read_directory(_at(file, begin, length), count)
        members = list(_locate(file, sorted(entries, key=lambda entry: entry.header), begin))
    except _ZipError as error:
        raise RejectedError(
            f"{where}: not a sound archive: {error}",
            "copy the file again; if it stays so, save it again with torch.save or torch.jit.save",
        ) from None
    for member in members:
        check_path(member.name, where, MAX_DEPTH)
    check_distinct((member.name for member in members), where)
    return members


def contents(file: BinaryIO, member: Member, where: str) -> Iterator[bytes]:
    """The member's bytes in pieces, its size and CRC proved by the end.

    Raises:
        RejectedError: they are not what the archive says.
    """
    crc, count = 0, 0
    for piece in _inflated(file, member, where) if member.deflated else _stored(file, member):
        crc = zlib.crc32(piece, crc)
        count += len(piece)
        yield piece
    if count != member.size or crc != member.crc:
        what = "CRC" if crc != member.crc else "size"
        raise RejectedError(
            f"{where}: member {member.name} is damaged: its {what} differs", "copy the file again"
        )


class _ZipError(Exception):
    """What is wrong with the archive."""


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    if offset < 0:
        raise _ZipError("it is cut short")
    file.seek(offset)
    data = file.read(count)
    if len(data) != count:
        raise _ZipError("it is cut short")
    return data


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """(offset, length, entries) of the directory, which must end where its end record begins."""
    at = size - _END.size
    magic, disk, first, here, count, length, begin, comment = _END.unpack(_at(file, at, _END.size))
    if magic != b"PK\5\6" or comment:
        raise _ZipError("it does not end with the end of an archive")
    if (disk, first) not in ((0, 0), (_SMALL, _SMALL)) or here != count:
        raise _ZipError("it is spread over several files")
    if at >= _LOCATOR64.size:
        locator = _LOCATOR64.unpack(_at(file, at - _LOCATOR64.size, _LOCATOR64.size))
        if locator[0] == b"PK\6\7":
            at -= _LOCATOR64.size + _END64.size
            if locator[1] != 0 or locator[2] != at or locator[3] not in (0, 1):
                raise _ZipError("its zip64 end is not where it says")
            small = (count, length, begin)
            count, length, begin = _read_end64(_at(file, at, _END64.size))
            for told, large, limit in zip(
                small, (count, length, begin), (_SMALL, _LARGE, _LARGE), strict=True
            ):
                if told not in (large, limit):
                    raise _ZipError("its two end records differ")
    if count > MAX_MEMBERS or length > MAX_DIRECTORY:
        raise _ZipError(f"it has {count} members, more than are read")
    if begin + length != at:
        raise _ZipError("bytes lie between its directory and its end")
    return begin, length, count


def _read_end64(raw: bytes) -> tuple[int, int, int]:
    magic, rest, _made, _needed, disk, first, here, count, length, begin = _END64.unpack(raw)
    if magic != b"PK\6\6" or rest != _END64.size - 12 or disk or first or here != count:
        raise _ZipError("its zip64 end is unsound")
    return count, length, begin


def _read_directory(raw: bytes, count: int) -> list[_Entry]:
    entries = []
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > len(raw):
            raise _ZipError("its directory is cut short")
        (magic, made, _need, flags, method, _time, _date, crc, packed, size, names, extras,
         comments, disk, _internal, external, header) = _ENTRY.unpack_from(raw, at)  # fmt: skip
        at += _ENTRY.size
        name, extra = raw[at : at + names], raw[at + names : at + names + extras]
        at += names + extras + comments
        if magic != b"PK\1\2" or at > len(raw) or comments or disk not in (0, _SMALL):
            raise _ZipError("its directory is unsound")
        _check_kind(name, flags, method, external >> 16 if made >> 8 == _UNIX else 0)
        size, packed, header = _widen(extra, size, packed, header)
        if method == _STORED and size != packed:
            raise _ZipError(f"member {_shown(name)} has two sizes")
        entries.append(_Entry(name, flags, method, crc, packed, size, header))
    if at != len(raw):
        raise _ZipError("its directory is longer than its entries")
    return entries


def _check_kind(name: bytes, flags: int, method: int, mode: int) -> None:
    if flags & _ENCRYPTED:
        raise _ZipError(f"member {_shown(name)} says that it is encrypted")
    if flags & ~(_LATE_SIZES | _UTF8):
        raise _ZipError(f"member {_shown(name)} has flags {flags:#x}, which none of ours has")
    if method not in (_STORED, _DEFLATED):
        raise _ZipError(f"member {_shown(name)} is packed by method {method}, not 0 or 8")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise _ZipError(f"member {_shown(name)} is a link or a device")


def _widen(extra: bytes, *fields: int) -> list[int]:
    """The fields, those that are all ones replaced by the zip64 extra field's."""
    wide = _zip64(extra)
    values = []
    for value in fields:
        if value != _LARGE:
            values.append(value)
            continue
        if len(wide) < 8:
            raise _ZipError("a zip64 size is missing")
        values.append(int.from_bytes(wide[:8], "little"))
        wide = wide[8:]
    return values


def _zip64(extra: bytes) -> bytes:
    """The zip64 field of an extra area, empty where there is none."""
    found = b""
    while extra:
        if len(extra) < 4:
            raise _ZipError("an extra field is cut short")
        kind, length = struct.unpack_from("<2H", extra)
        body, extra = extra[4 : 4 + length], extra[4 + length :]
        if len(body) != length or (kind == 1 and found):
            raise _ZipError("an extra field is unsound")
        if kind == 1:
            found = body
    return found


def _locate(file: BinaryIO, entries: list[_Entry], end: int) -> Iterator[Member]:
    """Members, each proved to begin where the one before ended, the last to end at `end`."""
    at = 0
    for index, entry in enumerate(entries):
        if entry.header != at:
            raise _ZipError(f"bytes before member {_shown(entry.name)} belong to none, or to two")
        limit = entries[index + 1].header if index + 1 < len(entries) else end
        start = _check_local(file, entry)
        at = start + entry.packed
        if at > limit:
            raise _ZipError(f"member {_shown(entry.name)} runs into the next")
        if entry.flags & _LATE_SIZES:
            at += _check_descriptor(entry, _at(file, at, min(24, limit - at)), limit - at)
        yield Member(
            _text(entry), entry.header, start, entry.packed, entry.size, entry.crc,
            entry.method == _DEFLATED,
        )  # fmt: skip
    if at != end:
        raise _ZipError("bytes before its directory belong to no member")


def _check_local(file: BinaryIO, entry: _Entry) -> int:
    """Where the member's bytes begin, its own header proved equal to its directory entry."""
    raw = _at(file, entry.header, _LOCAL.size)
    magic, _need, flags, method, _time, _date, crc, packed, size, names, extras = _LOCAL.unpack(raw)
    name = _at(file, entry.header + _LOCAL.size, names)
    extra = _at(file, entry.header + _LOCAL.size + names, extras)
    same = (b"PK\3\4", entry.flags, entry.method, entry.name) == (magic, flags, method, name)
    told = (crc, *_widen(extra, size, packed))
    late = bool(flags & _LATE_SIZES) and told in ((0, 0, 0), (entry.crc, 0, 0))
    if not same or not (late or told == (entry.crc, entry.size, entry.packed)):
        raise _ZipError(f"member {_shown(entry.name)} has a header that its directory denies")
    return entry.header + _LOCAL.size + len(name) + len(extra)


def _check_descriptor(entry: _Entry, raw: bytes, room: int) -> int:
    """Length of the sizes after the data, proved equal to the directory's."""
    for layout in ("<4sLLL", "<4sLQQ", "<LLL", "<LQQ"):
        if struct.calcsize(layout) != room:
            continue
        told = struct.unpack(layout, raw)
        wanted = (entry.crc, entry.packed, entry.size)
        if told in (wanted, (b"PK\7\10", *wanted)):
            return room
    raise _ZipError(f"member {_shown(entry.name)} is followed by bytes that are not its sizes")


def _text(entry: _Entry) -> str:
    try:
        return entry.name.decode("utf-8" if entry.flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise _ZipError(f"the name {_shown(entry.name)} is not UTF-8") from None


def _shown(name: bytes) -> str:
    return name[:120].decode("utf-8", "replace").encode("unicode_escape").decode()


def _stored(file: BinaryIO, member: Member) -> Iterator[bytes]:
    file.seek(member.start)
    left = member.packed
    while left > 0:
        piece = file.read(min(CHUNK, left))
        if not piece:
            return
        left -= len(piece)
        yield piece


def _inflated(file: BinaryIO, member: Member, where: str) -> Iterator[bytes]:
    if member.size > MAX_INFLATED:
        raise RejectedError(
            f"{where}: member {member.name} unpacks to {member.size} bytes",
            "save tensors unpacked, as torch.save does",
        )
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    left = member.size + 1  # one more than promised, so that too much is seen and not unpacked
    try:
        for packed in _stored(file, member):
            data = packed
            while data and left > 0 and not unpacker.eof:
                piece = unpacker.decompress(data, min(CHUNK, left))
                left -= len(piece)
                data = unpacker.unconsumed_tail
                yield piece
    except zlib.error:
        raise RejectedError(f"{where}: member {member.name} does not unpack") from None
    if not unpacker.eof or unpacker.unused_data:
        raise RejectedError(f"{where}: member {member.name} does not unpack to its size")
