"""Whether files on this disk are, byte for byte, what a manifest says.

Hashing a GiB takes most of a second, and a rollback must not: what this process has hashed, or
written itself, is remembered by inode, size and time of change, and is read again only when one of
them differs.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agent.bundles.errors import RejectedError
from agent.bundles.manifest import sha256_file
from agent.bundles.model import FileEntry, Manifest
from agent.units import Digest

_LARGE = 4 * 1024**2
"""From this size on, in bytes, hashing takes longer than the start of a thread."""


class Verified:
    """The files that this process has hashed. Safe from any thread: a lost entry costs a hash."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int, int, int], Digest] = {}

    def learn(self, path: Path, digest: Digest) -> None:
        """Note that `path` holds `digest`: the caller has just written or read it."""
        self._seen[_mark(path)] = digest

    def check(self, path: Path, digest: Digest) -> bool:
        """Whether `path` holds `digest`.

        Raises:
            OSError: it cannot be read.
        """
        mark = _mark(path)
        if mark not in self._seen:
            self._seen[mark] = sha256_file(path)
        return self._seen[mark] == digest

    def take(self, other: Verified) -> None:
        """Know what `other` knows too."""
        if other is not self:
            self._seen.update(other._seen)


def _mark(path: Path) -> tuple[int, int, int, int]:
    seen = os.lstat(path)
    return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)


def verify(folder: Path, manifest: Manifest, verified: Verified) -> None:
    """Compare every file with its digest; large ones two at a time.

    Raises:
        RejectedError: names the first file that is missing or not what the manifest says.
    """
    large = [entry for entry in manifest.files if entry.size >= _LARGE]
    if len(large) > 1:
        _hash_by_two(folder, large, verified)
    for entry in manifest.files:
        path = folder / entry.path
        try:
            same = os.lstat(path).st_size == entry.size and verified.check(path, entry.digest)
        except OSError as error:
            raise RejectedError(f"{manifest.version}/{entry.path}: {error.strerror}") from error
        if not same:
            raise RejectedError(
                f"{manifest.version}/{entry.path} is not what its manifest says",
                "deploy the version again from the store",
            )


def _hash_by_two(folder: Path, entries: Sequence[FileEntry], verified: Verified) -> None:
    """Learn the digests of `entries` on two cores; what cannot be read is told by the caller."""
    todo = deque(sorted(entries, key=lambda entry: entry.size, reverse=True))

    def work() -> None:
        while True:
            try:
                entry = todo.popleft()
            except IndexError:
                return
            with suppress(OSError):
                verified.check(folder / entry.path, entry.digest)

    helper = threading.Thread(target=work, name="bundle-verify")
    helper.start()
    work()
    helper.join()


def sound(folder: Path, manifest: Manifest, verified: Verified) -> bool:
    """`verify`, as a yes or no."""
    try:
        verify(folder, manifest, verified)
    except RejectedError:
        return False
    return True
