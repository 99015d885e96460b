"""Judge a `.pt` file: the archive's structure, every byte's CRC, and every pickle in it.

PyTorch's loaders look for records by name under one folder of the archive; what they unpickle is
`data.pkl` (and, for TorchScript, `constants.pkl` and debug records). Every other record is tried
as a pickle as well, by its first bytes and not by its name. A TorchScript file is told the way
torch.load tells it: by `constants.pkl`.
"""

from __future__ import annotations

import io
import re
from typing import BinaryIO

from agent.bundles.allowed import STATE_DICT, TORCHSCRIPT, Allowed
from agent.bundles.errors import RejectedError
from agent.bundles.machine import StorageRef, Walked
from agent.bundles.pickles import Budget, probe, walk
from agent.bundles.zips import MAX_INFLATED, Member, contents, read_members

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""How torch.save began a file before PyTorch 1.6."""
_SAVE_AGAIN = "load it where it was made and save it again with torch.save or torch.jit.save"

_HEAD = 64
_ITEM_BYTES = {
    **dict.fromkeys(
        ["BoolStorage", "ByteStorage", "CharStorage", "QInt8Storage", "QUInt8Storage"], 1
    ),
    **dict.fromkeys(["QUInt4x2Storage", "QUInt2x4Storage", "UntypedStorage"], 1),
    **dict.fromkeys(["ShortStorage", "HalfStorage", "BFloat16Storage"], 2),
    **dict.fromkeys(["IntStorage", "FloatStorage", "QInt32Storage"], 4),
    **dict.fromkeys(["LongStorage", "DoubleStorage", "ComplexFloatStorage"], 8),
    "ComplexDoubleStorage": 16,
}
# TorchScript has its own language, without imports; these are its operators that touch files or
# other machines.
_TOUCHES = re.compile(
    rb"\b(?:torch|ops\s*\.\s*aten)\s*\.\s*(save|from_file)\b|\b(rpc_(?:async|sync|remote))\b"
)


def check_torch_file(file: BinaryIO, size: int, where: str, budget: Budget | None = None) -> str:
    """Prove the `.pt` file that is the whole of `file`; return `state_dict` or `torchscript`.

    Raises:
        RejectedError: it is not such a file, is damaged, or would run code; names the member.
        OSError: it cannot be read.
    """
    file.seek(0)
    head = file.read(_HEAD)
    if head.startswith(LEGACY_MAGIC):
        raise RejectedError(f"{where} is in PyTorch's format from before 1.6", _SAVE_AGAIN)
    if not head.startswith(ZIP_MAGIC):
        if head.startswith(b"version https://git-lfs"):
            raise RejectedError(f"{where} is only a Git LFS pointer", "run git lfs pull")
        raise RejectedError(f"{where} is not an archive that PyTorch wrote", _SAVE_AGAIN)
    members = read_members(file, size, where)
    records = _records(members, where)
    kind = _kind(records, where)
    if sum(member.size for member in members if member.deflated) > MAX_INFLATED:
        raise RejectedError(f"{where} unpacks to more than {MAX_INFLATED} bytes", _SAVE_AGAIN)
    budget = budget or Budget()
    allowed = TORCHSCRIPT if kind == "torchscript" else STATE_DICT
    for name, member in records.items():
        _check_member(file, records, name, member, where, allowed, budget)
    return kind


def _records(members: list[Member], where: str) -> dict[str, Member]:
    """Members by their name below the archive's one folder."""
    roots = {member.name.partition("/")[0] for member in members}
    if len(roots) != 1:
        raise RejectedError(f"{where}: its members are not all in one folder", _SAVE_AGAIN)
    return {member.name.partition("/")[2]: member for member in members}


def _kind(records: dict[str, Member], where: str) -> str:
    if "data.pkl" not in records and ("archive_format" in records or "archive_version" in records):
        raise RejectedError(
            f"{where} was made by torch.export, whose archives are not read",
            "ship a state_dict or TorchScript",
        )
    for name in ("data.pkl", "version"):
        if name not in records:
            raise RejectedError(f"{where} has no record `{name}`", _SAVE_AGAIN)
    script = "constants.pkl" in records
    if script != any(name.startswith("code/") for name in records):
        raise RejectedError(
            f"{where} has code without constants, or the reverse: neither a state_dict nor"
            " TorchScript",
            _SAVE_AGAIN,
        )
    return "torchscript" if script else "state_dict"


def _check_member(
    file: BinaryIO,
    records: dict[str, Member],
    name: str,
    member: Member,
    where: str,
    allowed: Allowed,
    budget: Budget,
) -> None:
    inside = f"{where}: {member.name}"
    if member.deflated or _is_code(name):
        if member.size > MAX_INFLATED:
            raise RejectedError(f"{inside} has {member.size} bytes", _SAVE_AGAIN)
        data = b"".join(contents(file, member, where))
        source: BinaryIO = io.BytesIO(data)
        start, head = 0, data[:_HEAD]
    else:
        pieces = contents(file, member, where)
        head = next(pieces, b"")[:_HEAD]
        for _ in pieces:  # the end of the pieces proves the CRC
            pass
        data, source, start = head, file, member.start
    if head.startswith(ZIP_MAGIC):
        raise RejectedError(f"{inside} is an archive within the archive", _SAVE_AGAIN)
    _check_text(name, data, inside)
    if name.endswith("pkl"):
        seen = walk(source, start, member.size, inside, allowed, budget)
        if seen.size != member.size:
            raise RejectedError(f"{inside}: {member.size - seen.size} bytes follow the pickle")
        if name in ("data.pkl", "constants.pkl"):
            _check_storages(seen, records, name, inside)
    else:
        probe(source, start, member.size, inside, allowed, budget)


def _is_code(name: str) -> bool:
    return name.startswith("code/") and name.endswith(".py")


def _check_text(name: str, data: bytes, inside: str) -> None:
    if name == "version" and not re.fullmatch(rb"[0-9]{1,6}\s*", data):
        raise RejectedError(f"{inside} is not a number", _SAVE_AGAIN)
    if name == "byteorder" and data not in (b"little", b"big"):
        raise RejectedError(f"{inside} is neither `little` nor `big`", _SAVE_AGAIN)
    if _is_code(name) and (found := _TOUCHES.search(data)):
        operator = (found[1] or found[2]).decode()
        raise RejectedError(
            f"{inside}: offset {found.start()}: the code calls {operator}, which reads or"
            " writes outside the model",
            "a model computes; remove that call, or find out who put it there",
        )


def _check_storages(seen: Walked, records: dict[str, Member], name: str, inside: str) -> None:
    """Every tensor's bytes must be there, as many as its type and length ask for."""
    folder = "constants" if name == "constants.pkl" else "data"
    for storage in seen.storages:
        record = records.get(f"{folder}/{storage.key}") or records.get(storage.key)
        if record is None:
            raise RejectedError(f"{inside} needs record {folder}/{storage.key}, which is missing")
        if record.size != _bytes(storage):
            raise RejectedError(
                f"{inside} needs {storage.elements} elements ({storage.kind}) in"
                f" {folder}/{storage.key}, which has {record.size} bytes"
            )


def _bytes(storage: StorageRef) -> int:
    return storage.elements * _ITEM_BYTES.get(storage.kind, 0)
