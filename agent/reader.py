"""How a trader reads its model bundle: one version whole, never halves of two.

    from agent.reader import open_bundle

    with open_bundle("/opt/intradayjules/models") as bundle:
        weights = bundle.read("policy.pt")
        print(bundle.version)

`current` is one atomic pointer, not a snapshot: two opens through it can straddle a flip. So:

1. read where `current` points, and open that directory once
2. take a shared lock (flock) on the descriptor: a version with such a lease is never removed, and
   a reader that dies gives it back by dying
3. look again: if `current` has moved meanwhile, or the directory is another one, begin anew
4. open every file relative to that descriptor, following no link

Standard library only, and nothing else of ours: this file may be copied into a trader. Every
failure is an OSError that names the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import BinaryIO, Self

_ATTEMPTS = 1000
_PAUSE_AFTER = 10
_PAUSE = 0.001
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EWOULDBLOCK)


class Bundle:
    """One version, leased until the `with` that opened it ends, or it is forgotten."""

    def __init__(self, root: str | os.PathLike[str], target: str, fd: int) -> None:
        self.version = target.rpartition("/")[2]
        """The version's name, such as `v2025-07-08`."""
        self._root, self._target = root, target
        self._fd = fd

    @property
    def path(self) -> Path:
        """Its folder, for libraries that want a path; it stays there while the lease is held."""
        return Path(self._root, self._target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        fd, self._fd = self._fd, -1  # a read after the lease must fail, not hit a reused number
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.__exit__()

    def open(self, name: str) -> BinaryIO:
        """The file `name` (`/`-joined below the bundle), opened for reading in binary.

        Raises:
            FileNotFoundError: the bundle has no such file.
            OSError: it is a link or no plain file, the name leaves the bundle, or the lease is
                over.
        """
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise OSError(errno.EINVAL, "not a path below the bundle", name)
        folder = os.dup(self._fd)
        try:
            for part in parts[:-1]:
                inner = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            fd = os.open(parts[-1], _FILE, dir_fd=folder)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise OSError(error.errno, why, str(self.path / name)) from None
        finally:
            os.close(folder)
        try:
            if not os.path.isfile(fd):
                raise OSError(errno.EINVAL, "not a plain file", str(self.path / name))
            return open(fd, "rb")
        except BaseException:
            os.close(fd)
            raise

    def read(self, name: str) -> bytes:
        """The whole of file `name`; raises as `open`."""
        with self.open(name) as file:
            return file.read()


def open_bundle(root: str | os.PathLike[str]) -> Bundle:
    """The live version below the deployment root, leased for the body of a `with`.

    Raises:
        FileNotFoundError: there is no `current`, or it points at nothing: no bundle is live.
        OSError: the root cannot be read, or `current` is not a link.
    """
    place = os.open(root, _DIRECTORY)
    try:
        target, fd = _lease(place, root)
    finally:
        os.close(place)
    return Bundle(root, target, fd)


def _lease(place: int, root: str | os.PathLike[str]) -> tuple[str, int]:
    """Where `current` points, and a locked descriptor of that very directory."""
    for attempt in range(_ATTEMPTS):
        if attempt >= _PAUSE_AFTER:
            time.sleep(_PAUSE)
        target = _current(place, root)
        try:
            fd = os.open(target, _DIRECTORY, dir_fd=place)
        except (FileNotFoundError, NotADirectoryError):
            continue  # flipped away and removed in between, or points at nothing
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            mine, live = os.fstat(fd), os.stat("current", dir_fd=place)
            if mine.st_ino == live.st_ino and mine.st_dev == live.st_dev:
                return target, fd
        except OSError as error:
            if error.errno not in _GONE:
                os.close(fd)
                raise
        os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "points at nothing", os.path.join(root, "current"))


def _current(place: int, root: str | os.PathLike[str]) -> str:
    try:
        return os.readlink("current", dir_fd=place)
    except OSError as error:
        why = "is not a link" if error.errno == errno.EINVAL else os.strerror(error.errno or 0)
        raise OSError(error.errno, why, os.path.join(root, "current")) from None
