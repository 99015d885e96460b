"""Paths inside a bundle: which names are good, what a folder holds, how a file is opened.

Everything is opened relative to the descriptor of a directory and never through a link, so that
nobody who may write the folder can lead us out of it between a check and a read.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.bundles.errors import RejectedError
from agent.bundles.model import MANIFEST, SIGNATURES
from agent.bundles.stores.base import StoreFile
from agent.fs import TEMP_PREFIX
from agent.units import Bytes

MAX_DEPTH = 8
MAX_PATH = 1024
MAX_COMPONENT = 255
RESERVED = (MANIFEST, SIGNATURES)
"""Files that describe a version and are not part of it."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe must not hang; on a plain file it changes nothing
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def check_path(path: str, where: str, max_depth: int = MAX_DEPTH) -> str:
    """`path` again, if it is a good name below a bundle: relative, plain, printable, not deep.

    Raises:
        RejectedError: it is not; `where` says which document names it.
    """
    shown = f"{where}: path {path[:120]!a}"
    parts = path.split("/")
    if not path.isprintable() or "\\" in path:  # also refuses surrogates and text direction marks
        raise RejectedError(f"{shown} has a character that no file of a bundle may have")
    if any(part in ("", ".", "..") for part in parts):
        raise RejectedError(f"{shown} is absolute, leads upwards or has an empty component")
    if len(parts) > max_depth or len(path.encode()) > MAX_PATH:
        raise RejectedError(f"{shown} is deeper than {max_depth} or longer than {MAX_PATH} bytes")
    if any(len(part.encode()) > MAX_COMPONENT for part in parts):
        raise RejectedError(f"{shown} has a component of more than {MAX_COMPONENT} bytes")
    if any(part.startswith(TEMP_PREFIX) for part in parts):
        raise RejectedError(f"{shown} is a temporary name of the agent")
    return path


def check_distinct(paths: Iterable[str], where: str) -> None:
    """Refuse paths that are the same on some file system, or that need a file to be a folder.

    Raises:
        RejectedError: two paths are equal (case and composed letters aside), or one lies below
            another.
    """
    folded: dict[str, str] = {}
    for path in paths:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        if key in folded:
            raise RejectedError(
                f"{where}: {path} and {folded[key]} are one file where case does not count"
                if path != folded[key]
                else f"{where}: {path} is listed twice"
            )
        folded[key] = path
    for key, path in folded.items():
        head = key
        while "/" in head:
            head = head.rpartition("/")[0]
            if head in folded:
                raise RejectedError(f"{where}: {folded[head]} is both a file and a folder ({path})")


@contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """The descriptor of directory `path`, closed afterwards; the last component is no link.

    Raises:
        OSError: there is no such directory.
    """
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def open_file(folder: int, path: str) -> int:
    """A descriptor of plain file `path` below the directory `folder`; the caller closes it.

    Raises:
        RejectedError: the path is not a good one, or something on it is a link, device or pipe.
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    check_path(path, "bundle")
    *above, name = path.split("/")
    fd = os.dup(folder)
    try:
        for part in above:
            deeper = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        file = os.open(name, _FILE, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise RejectedError(f"{path} is, or lies behind, a link, socket or device") from None
        raise
    finally:
        os.close(fd)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise RejectedError(f"{path} is no plain file", "publish plain files only")
    return file


def list_files(folder: int, max_files: int) -> list[StoreFile]:
    """Every file below the directory `folder`, sorted by path, `RESERVED` ones left out.

    Raises:
        RejectedError: a link, device or pipe, a bad name, or more than `max_files`.
        OSError: something cannot be read.
    """
    found: list[StoreFile] = []
    _list(folder, "", found, max_files)
    found.sort(key=lambda file: file.path)
    check_distinct((file.path for file in found), "bundle")
    return found


def _list(folder: int, prefix: str, found: list[StoreFile], max_files: int) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = check_path(prefix + entry.name, "bundle")
            if path in RESERVED and entry.is_file(follow_symlinks=False):
                continue
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                deeper = os.open(entry.name, _DIRECTORY, dir_fd=folder)
                try:
                    _list(deeper, path + "/", found, max_files)
                finally:
                    os.close(deeper)
                continue
            if not stat.S_ISREG(status.st_mode):
                raise RejectedError(
                    f"{path} is a link, device, pipe or socket", "publish plain files only"
                )
            found.append(StoreFile(path, Bytes(status.st_size)))
            if len(found) > max_files:
                raise RejectedError(
                    f"the bundle holds more than {max_files} files",
                    "raise bundles.limits.max_files if that is meant",
                )
