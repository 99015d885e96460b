"""Downloads that survive a kill: `.staging/parts/<digest>` grows, with a word on what it is of.

A part is named by the digest that its file must have, so it is good for any version that lists that
file. Beside it, `<digest>.json` holds the object's ETag: the rest is asked for on the condition
that it is still the same object, else the part is thrown away and fetched anew. What was on disk is
hashed again, so that the digest at the end covers every byte; a part that then proves wrong (a
power cut may lose what was never synced) is fetched once more from the start before anybody is
blamed. A finished part is moved into the staged folder: nothing is written twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from agent import fs
from agent.bundles.copying import AbandonedError
from agent.bundles.errors import RejectedError
from agent.bundles.model import FileEntry
from agent.units import Bytes, Digest, Version

if TYPE_CHECKING:
    from agent.bundles.stores.ahead import Ahead

FOLDER = "parts"
_CHUNK = 1024 * 1024
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_TAG_LIMIT = 4096


@runtime_checkable
class Resumable(Protocol):
    """A store that can begin a file anywhere."""

    def open_from(
        self, version: Version, path: str, size: Bytes, offset: int, tag: str | None
    ) -> Ahead:
        """See `HttpStore.open_from`."""
        ...


class Parts:
    """The parts below one staging folder. Callers hold `Layout.lock`."""

    def __init__(self, staging: Path) -> None:
        self._folder = staging / FOLDER

    def held(self, digest: Digest) -> int:
        """Bytes of a file that are here already."""
        try:
            return os.lstat(self._path(digest)).st_size
        except OSError:
            return 0

    def keep_only(self, wanted: Iterable[Digest]) -> None:
        """Remove every part of a file that is not wanted any more."""
        kept = {_name(digest) for digest in wanted}
        with suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                if name.removesuffix(".json") not in kept:
                    os.unlink(self._folder / name)
            if not kept:
                os.rmdir(self._folder)

    def fetch(
        self,
        store: Resumable,
        version: Version,
        entry: FileEntry,
        target: Path,
        stop: Callable[[], bool],
    ) -> Digest:
        """Bring one file to `target`, read-only and synced; what a kill left is not asked for
        again.

        Raises:
            RejectedError: the store's bytes are not what the manifest says.
            StoreError: the store does not answer; the part stays.
            AbandonedError: `stop` said so; the part stays.
            OSError: this file system refused.
        """
        from agent.bundles.stores.ahead import ChangedError

        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._path(entry.digest)
        fd = os.open(path, _OPEN, 0o600)
        try:
            for _ in range(2):
                begun = self.held(entry.digest)
                try:
                    whole = self._go_on(fd, store, version, entry, stop)
                except ChangedError:
                    if not begun:
                        raise
                    whole = False
                if whole:
                    os.fchmod(fd, 0o444)
                    os.fsync(fd)
                    os.rename(path, target)
                    self._forget(path)
                    with suppress(OSError):  # other parts are in it
                        os.rmdir(self._folder)
                    return entry.digest
                os.ftruncate(fd, 0)
                self._forget(path)
                if not begun:
                    break
        finally:
            os.close(fd)
        os.unlink(path)
        raise RejectedError(
            f"{version}: {entry.path} is not what its manifest says",
            "publish the version again under a new name; its bytes changed in the store",
        )

    def _go_on(
        self,
        fd: int,
        store: Resumable,
        version: Version,
        entry: FileEntry,
        stop: Callable[[], bool],
    ) -> bool:
        """Fetch what is missing; whether the whole is what the manifest says."""
        sum_ = hashlib.sha256()
        buffer = memoryview(bytearray(_CHUNK))
        path = self._path(entry.digest)
        tag = self._tag(path)
        if tag is None and entry.size:
            os.ftruncate(fd, 0)  # of which object it is, is not known
        os.lseek(fd, 0, os.SEEK_SET)
        done = 0
        while count := os.readv(fd, [buffer]):
            sum_.update(buffer[:count])
            done += count
        if done > entry.size:
            return False
        with store.open_from(version, entry.path, entry.size, done, tag) as stream:
            if stream.tag is not None and stream.tag != tag:
                self._note(path, stream.tag)
            while count := stream.readinto(buffer):
                if stop():
                    raise AbandonedError(f"the copy of {version} was abandoned")
                sum_.update(buffer[:count])
                fs.write_all(fd, buffer[:count])
        return "sha256:" + sum_.hexdigest() == entry.digest

    def _path(self, digest: Digest) -> Path:
        return self._folder / _name(digest)

    def _tag(self, path: Path) -> str | None:
        try:
            with open(f"{path}.json", "rb") as file:
                tag = json.loads(file.read(_TAG_LIMIT))["etag"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return tag if isinstance(tag, str) else None

    def _note(self, path: Path, tag: str) -> None:
        with open(f"{path}.json", "w", encoding="ascii") as file:
            json.dump({"etag": tag}, file)

    def _forget(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            os.unlink(f"{path}.json")


def _name(digest: Digest) -> str:
    return digest.removeprefix("sha256:")
