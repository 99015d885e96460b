"""One file at a time into a staged folder: linked, or copied and hashed in the same pass."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from agent import fs
from agent.bundles.errors import BundleError, RejectedError
from agent.bundles.model import FileEntry
from agent.bundles.stores.base import StoreFile
from agent.units import Digest, Version

_CHUNK = 1024 * 1024
_NO_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EACCES, errno.ENOENT, errno.EOPNOTSUPP)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class AbandonedError(BundleError):
    """The copy was told to stop; nothing remains of it."""


def link(source: Path | None, target: Path) -> bool:
    """Hard-link, where there is a source and the file system can; whether it was done."""
    if source is None:
        return False
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def copy_file(
    source: BinaryIO,
    target: Path,
    version: Version,
    file: StoreFile,
    entry: FileEntry | None,
    stop: Callable[[], bool],
) -> Digest:
    """Copy one file of `version`, hashed on the way, read-only and synced at the end.

    Raises:
        RejectedError: it is not what the listing or its manifest entry says.
        AbandonedError: `stop` said so between two chunks.
        OSError: this file system refused.
    """
    sum_ = hashlib.sha256()
    buffer = memoryview(bytearray(min(_CHUNK, file.size + 1)))
    size = 0
    fd = os.open(target, _NEW, 0o600)
    try:
        while count := source.readinto(buffer):  # type: ignore[attr-defined]
            if stop():
                raise AbandonedError(f"the copy of {version} was abandoned")
            size += count
            if size > file.size:
                break
            sum_.update(buffer[:count])
            fs.write_all(fd, buffer[:count])
        digest = Digest("sha256:" + sum_.hexdigest())
        if size != file.size:
            raise RejectedError(f"{version}: {file.path} changed while it was read")
        if entry is not None and digest != entry.digest:
            raise RejectedError(
                f"{version}: {file.path} is not what its manifest says",
                "publish the version again under a new name; its bytes changed in the store",
            )
        os.fchmod(fd, 0o444)
        os.fsync(fd)
    finally:
        os.close(fd)
    return digest


def write_new(path: Path, data: bytes) -> None:
    """Write a file that was not there, read-only and synced."""
    fd = os.open(path, _NEW, 0o600)
    try:
        fs.write_all(fd, data)
        os.fchmod(fd, 0o444)
        os.fsync(fd)
    finally:
        os.close(fd)
