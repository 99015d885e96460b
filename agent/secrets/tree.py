"""The files of one generation: written, read, and compared with what they should be.

Every open is relative to a directory descriptor and follows no link. A file that cannot be read
counts as changed, never as a reason to give up: the next generation puts it right.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from agent import fs
from agent.units import UnixTime

INDEX = ".index.json"
OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True, repr=False)
class Item:
    """One file of a generation: its path below the directory, bytes, and what the index tells."""

    path: str
    data: bytes
    name: str
    version: str
    provider: str
    fetched_at: UnixTime
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    replaced_at: UnixTime | None = None
    """Of a predecessor: when its successor was met."""

    def described(self, digest: str) -> dict[str, object]:
        """Its entry in the index."""
        told: dict[str, object] = {
            "name": self.name,
            "version": self.version,
            "provider": self.provider,
            "fetched_at": self.fetched_at,
            "digest": digest,
        }
        return told if self.replaced_at is None else {**told, "replaced_at": self.replaced_at}

    def __reduce_ex__(self, _protocol: Any) -> NoReturn:
        raise TypeError("a secret is never pickled")


@dataclass(frozen=True, slots=True)
class Look:
    """Modes and owners of everything published."""

    file_mode: int
    dir_mode: int
    uid: int
    gid: int

    def of(self, item: Item) -> Look:
        """As this, but for what the item has of its own."""
        return Look(
            self.file_mode if item.mode is None else item.mode,
            self.dir_mode,
            self.uid if item.uid is None else item.uid,
            self.gid if item.gid is None else item.gid,
        )


def write_file(root: int, path: str, data: bytes, look: Look, whole: Look | None = None) -> None:
    """Write a new file at `path` below the directory open as `root`, and the folders it needs,
    which look as the `whole` set does.

    Raises:
        OSError: it exists, or the volume is full.
    """
    *folders, leaf = path.split("/")
    here = os.dup(root)
    try:
        for folder in folders:
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700, dir_fd=here)
            below = os.open(folder, OPEN_DIR, dir_fd=here)
            os.close(here)
            here = below
            dress(here, look.dir_mode, whole or look)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, 0o600, dir_fd=here)
        try:
            dress(fd, look.file_mode, look)
            fs.write_all(fd, data)
        finally:
            os.close(fd)
    finally:
        os.close(here)


def dress(fd: int, mode: int, look: Look) -> None:
    """Owner and group, then mode: a change of owner clears mode bits."""
    seen = os.fstat(fd)
    if (seen.st_uid, seen.st_gid) != (look.uid, look.gid):
        os.fchown(fd, look.uid if seen.st_uid != look.uid else -1, look.gid)
    os.fchmod(fd, mode)


def remove(path: Path) -> None:
    """Delete a generation whatever its modes are."""
    for folder, _, _ in os.walk(path):
        with suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def compare(root: Path, items: Mapping[str, Item], look: Look) -> tuple[str, ...]:
    """What of the generation at `root` is not as it should be: nothing, or some of `content`,
    `mode`, `owner`, `stray`."""
    found: set[str] = set()
    seen: set[str] = set()
    looks = {item.path: look.of(item) for item in items.values()}
    _check(root.lstat(), look.dir_mode, look, found)
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            state = os.lstat(path)
            if stat.S_ISDIR(state.st_mode):
                _check(state, look.dir_mode, look, found)
            elif stat.S_ISREG(state.st_mode):
                below = os.path.relpath(path, root)
                wanted = looks.get(below, look)
                _check(state, wanted.file_mode, wanted, found)
                seen.add(below)
            else:
                found.add("stray")
    paths = {item.path for item in items.values()}
    same = (
        seen - {INDEX} == paths
        and all(read(root, item.path) == item.data for item in items.values())
        and set(read_index(root)) == paths
    )
    if not same:
        found.add("content")
    return tuple(sorted(found))


def _check(state: os.stat_result, mode: int, look: Look, found: set[str]) -> None:
    if stat.S_IMODE(state.st_mode) != mode:
        found.add("mode")
    if (state.st_uid, state.st_gid) != (look.uid, look.gid):
        found.add("owner")


def read(root: Path, path: str) -> bytes | None:
    """The bytes of a regular file below `root`; None if it cannot be read without following a
    link."""
    try:
        here = os.open(root, OPEN_DIR)
        try:
            *folders, leaf = path.split("/")
            for folder in folders:
                below = os.open(folder, OPEN_DIR, dir_fd=here)
                os.close(here)
                here = below
            fd = os.open(leaf, _OPEN_FILE, dir_fd=here)
        finally:
            os.close(here)
    except OSError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return file.read()


def read_index(root: Path) -> dict[str, dict[str, object]]:
    """What the index of the generation at `root` says of each file, by path; empty if damaged."""
    try:
        tree = json.loads(read(root, INDEX) or b"{}")
    except ValueError:
        return {}
    files = tree.get("files") if isinstance(tree, dict) else None
    if not isinstance(files, dict) or not all(isinstance(told, dict) for told in files.values()):
        return {}
    return files


def read_items(root: Path, paths: Collection[str]) -> dict[str, Item]:
    """Files of the generation at `root` with what its index knows of them, as far as they exist."""
    index = read_index(root)
    found: dict[str, Item] = {}
    for path in paths:
        told, data = index.get(path), read(root, path)
        if told is None or data is None:
            continue
        fetched_at, replaced_at = told.get("fetched_at"), told.get("replaced_at")
        found[path] = Item(
            path=path,
            data=data,
            name=str(told.get("name")),
            version=str(told.get("version")),
            provider=str(told.get("provider")),
            fetched_at=UnixTime(float(fetched_at if isinstance(fetched_at, int | float) else 0)),
            replaced_at=UnixTime(float(replaced_at))
            if isinstance(replaced_at, int | float)
            else None,
        )
    return found


def marks(directory: Path, live: str) -> tuple[tuple[object, ...], float]:
    """One mark for each name below `directory` that a reader can meet, and when the newest of
    them changed (seconds since the epoch).

    Raises:
        OSError: one of them went away meanwhile.
    """
    found: list[object] = []
    newest = 0.0
    folders = [str(directory / live)]
    own = os.lstat(directory)
    found.append((own.st_ino, own.st_mode, own.st_uid, own.st_gid, own.st_mtime_ns))
    states = [os.lstat(folders[0])]
    with os.scandir(directory) as entries:
        states += [e.stat(follow_symlinks=False) for e in entries if e.is_symlink()]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                states.append(entry.stat(follow_symlinks=False))
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    for state in states:
        found.append((state.st_ino, state.st_mode, state.st_uid, state.st_gid, state.st_ctime_ns))
        newest = max(newest, state.st_ctime)
    return tuple(found), newest
