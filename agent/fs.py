"""Durable file primitives: the only place that renames, links or syncs.

A write that must survive a power cut goes: temporary file with a random name in the same directory
(a fixed name is EEXIST for ever after a kill), mode set on the descriptor, bytes, fsync, rename,
fsync of the directory. A link is flipped the same way. `sweep` removes what a kill left behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.errors import BusyError
from agent.units import Bytes

TEMP_PREFIX = ".jules-tmp-"
"""Every temporary name starts so: what starts so at start-up is a leftover."""


def temp_name() -> str:
    """A name that no earlier, killed attempt can have taken."""
    return TEMP_PREFIX + secrets.token_hex(8)


def fsync_dir(path: Path) -> None:
    """Make the names in `path` durable.

    Raises:
        OSError: the directory cannot be opened or the device refused.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte of `data` to `fd`; a short write is continued, never taken for success."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_durable(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by a file that holds `data`, or leave it exactly as it was.

    Raises:
        OSError: nothing was replaced; no temporary file remains.
    """
    temp = path.parent / temp_name()
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.fchmod(fd, mode)
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temp, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temp)
        raise
    fsync_dir(path.parent)


def replace_link(link: Path, target: str, *, durable: bool = True) -> None:
    """Point `link` at `target` by one rename: a reader sees the old target or the new one.

    `target` is written as given; pass a relative one so that the volume may be mounted elsewhere.
    With `durable` the directory is synced afterwards.

    Raises:
        OSError: `link` still points where it did.
    """
    temp = link.parent / temp_name()
    os.symlink(target, temp)
    try:
        os.replace(temp, link)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temp)
        raise
    if durable:
        fsync_dir(link.parent)


def read_link(link: Path) -> str | None:
    """Where `link` points, or None when there is no link of that name."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # exists, but is no link
            return None
        raise


def make_dirs_durable(path: Path, mode: int = 0o700) -> None:
    """Make `path` and its missing parents, each name synced into its parent."""
    missing: list[Path] = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(directory, mode)
        fsync_dir(directory.parent)


def rename_durable(source: Path, target: Path) -> None:
    """Rename within one file system; the new name is on disk when this returns.

    Raises:
        OSError: nothing was renamed, or the parent's sync failed.
    """
    os.rename(source, target)
    fsync_dir(target.parent)


def unlink_durable(path: Path) -> None:
    """Remove one name, if it is there, durably."""
    with suppress(FileNotFoundError):
        os.unlink(path)
        fsync_dir(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a folder and all below it, read-only folders too; follows no link.

    Raises:
        OSError: something could not be removed.
    """
    for folder, _, _ in os.walk(path):
        with suppress(FileNotFoundError):
            os.chmod(folder, 0o700)
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def sweep(directory: Path) -> list[str]:
    """Remove temporary files and links that a kill left in `directory`; return their names."""
    swept = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(TEMP_PREFIX) and not entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)
                swept.append(entry.name)
    return swept


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive advisory lock on `path` (made if missing) for the body.

    The lock belongs to the open file, so a killed holder releases it by dying.

    Raises:
        BusyError: another process (or thread) holds it; `what` names the work in the message.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"{what} is already under way elsewhere (lock {path})",
                "wait for it to finish, or find the holder with `fuser`",
            ) from error
        yield
    finally:
        os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether some process holds `lock` on `path` now; False where there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def filesystem_type(path: Path) -> str:
    """The type of the file system that holds `path`, such as `tmpfs` or `ext4`.

    Read from /proc/self/mountinfo by device number (proc(5)); "unknown" where no line matches.
    """
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            if before.split(" ", 3)[2] == wanted:
                return after.split(" ", 1)[0]
    return "unknown"


def free_bytes(path: Path) -> Bytes:
    """What an unprivileged process may still write on the file system of `path`."""
    stat = os.statvfs(path)
    return Bytes(stat.f_bavail * stat.f_frsize)
