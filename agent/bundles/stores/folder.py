"""A store that is a folder: a mounted volume, or a directory that something else fills.

`channels/<channel>.json` says what is wanted, `bundles/<version>/` holds a version's files with
its manifest.json among them. Whoever publishes writes the channel document last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agent.bundles.errors import MissingError, RejectedError, StoreError
from agent.bundles.folders import list_files, open_file
from agent.bundles.manifest import MAX_DOCUMENT, MAX_ENTRIES, check_version, parse_channel
from agent.bundles.model import MANIFEST, SIGNATURES, Desired
from agent.bundles.stores.base import StoreFile, Watch
from agent.units import Version

CHANNELS, BUNDLES = "channels", "bundles"
_CHANNEL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


def check_channel(channel: str) -> str:
    """`channel` again, if it is a name that a channel may have; raises StoreError."""
    if not _CHANNEL.fullmatch(channel):
        raise StoreError(
            f"{channel[:120]!a} is no channel name", "use letters, digits, '_', '-' and '.'"
        )
    return channel


class FolderStore:
    """Versions and channels below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = f"folder {path}"

    def desired(self, channel: str) -> Desired | None:
        """What the channel document asks for; None when there is no such channel."""
        name = f"{check_channel(channel)}.json"
        with self._folder(()) as root, self._errors(f"{CHANNELS}/{name}"):
            try:
                fd = open_file(root, f"{CHANNELS}/{name}")
            except FileNotFoundError:
                return None
            try:
                return parse_channel(_read(fd))
            except RejectedError as error:
                raise StoreError(
                    f"{self.name}: {CHANNELS}/{name}: {error}",
                    error.remedy or "it may be half-written: write it elsewhere, then rename it",
                ) from None

    def manifest(self, version: Version) -> bytes | None:
        """The exact bytes of the version's manifest; None when it has none."""
        return self._document(version, MANIFEST)

    def signatures(self, version: Version) -> bytes | None:
        """The bytes of the version's manifest.sig; None when it has none."""
        return self._document(version, SIGNATURES)

    def _document(self, version: Version, name: str) -> bytes | None:
        with self._version(version) as folder, self._errors(f"{version}/{name}"):
            try:
                return _read(open_file(folder, name))
            except FileNotFoundError:
                return None

    def files(self, version: Version) -> list[StoreFile]:
        """What the version holds, sorted by path."""
        with self._version(version) as folder, self._errors(version):
            return list_files(folder, MAX_ENTRIES)

    def open(self, version: Version, path: str) -> BinaryIO:
        """The bytes of one file, never through a link."""
        with self._version(version) as folder, self._errors(f"{version}/{path}"):
            try:
                return open(open_file(folder, path), "rb", buffering=0)
            except FileNotFoundError:
                raise MissingError(
                    f"{self.name}: version {version} has no {path}", "publish the version again"
                ) from None

    def watch(self, changed: Callable[[], None]) -> Watch | None:
        """Call `changed` on every change of the folder, whether it exists yet or not."""
        from agent.bundles.stores.watching import FolderWatch

        return FolderWatch(self.path, (CHANNELS, BUNDLES), changed)

    @contextmanager
    def _version(self, version: Version) -> Iterator[int]:
        with self._folder((BUNDLES, check_version(version))) as folder:
            yield folder

    @contextmanager
    def _folder(self, parts: tuple[str, ...]) -> Iterator[int]:
        """The descriptor of a folder of the store, each step opened below the one before."""
        try:
            # the store's own path may be a link (a mounted ConfigMap is); what is below may not
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(
                f"{self.name}: {error.strerror}",
                "mount the store there, make it readable, or mend bundles.store.path",
            ) from None
        try:
            for part in parts:
                try:
                    deeper = os.open(
                        part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd
                    )
                except FileNotFoundError:
                    raise MissingError(
                        f"{self.name}: there is no {'/'.join(parts)}", "publish that version first"
                    ) from None
                except OSError as error:
                    raise StoreError(
                        f"{self.name}: {'/'.join(parts)}: {error.strerror}",
                        "it must be a readable folder, not a link",
                    ) from None
                os.close(fd)
                fd = deeper
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.name}: {what}: {error.strerror}", "make the store readable for the agent"
            ) from None


def _read(fd: int) -> bytes:
    """A small document, whole; the descriptor is closed."""
    with open(fd, "rb") as file:
        raw = file.read(MAX_DOCUMENT + 1)
    if len(raw) > MAX_DOCUMENT:
        raise StoreError(f"a document of more than {MAX_DOCUMENT} bytes")
    return raw
