"""A store that is one bundle's folder: for `deploy --source`, and for callers of the library.

It has no channel; whatever version is asked of it is what the folder holds. The manifest, where
there is one, still says which version that is, and staging refuses another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from agent.bundles.errors import MissingError, RejectedError, StoreError
from agent.bundles.folders import list_files, open_file, opened_folder
from agent.bundles.manifest import MAX_DOCUMENT
from agent.bundles.model import MANIFEST, SIGNATURES, Desired
from agent.bundles.stores.base import StoreFile, Watch
from agent.units import Version


class SingleFolder:
    """The bundle in folder `path`."""

    name = "folder"

    def __init__(self, path: Path, *, max_files: int) -> None:
        self._path = path
        self._max_files = max_files

    def desired(self, channel: str) -> Desired | None:
        """A single folder wishes for nothing."""
        return None

    def manifest(self, version: Version) -> bytes | None:
        """The folder's manifest, if it has one; raises MissingError, StoreError."""
        return self._document(version, MANIFEST)

    def signatures(self, version: Version) -> bytes | None:
        """The folder's manifest.sig, if it has one; raises as `manifest`."""
        return self._document(version, SIGNATURES)

    def _document(self, version: Version, name: str) -> bytes | None:
        try:
            with self.open(version, name) as file:
                return file.read(MAX_DOCUMENT + 1)
        except MissingError:
            if self._path.is_dir():
                return None
            raise

    def files(self, version: Version) -> list[StoreFile]:
        """Every file; raises MissingError, RejectedError, StoreError."""
        try:
            with opened_folder(self._path) as folder:
                return list_files(folder, self._max_files)
        except OSError as error:
            raise self._foreign(error, version, "") from error

    def open(self, version: Version, path: str) -> BinaryIO:
        """One file's bytes, through no link; raises as `files`."""
        try:
            with opened_folder(self._path) as folder:
                return os.fdopen(open_file(folder, path), "rb", buffering=0)
        except OSError as error:
            raise self._foreign(error, version, path) from error

    def watch(self, changed: Callable[[], None]) -> Watch | None:
        """Nothing to watch."""
        return None

    def _foreign(self, error: OSError, version: Version, path: str) -> StoreError | RejectedError:
        place = self._path / path if path else self._path
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return MissingError(f"{version}: {place} is not there", "name the bundle's own folder")
        return StoreError(f"{version}: {place} cannot be read: {error.strerror}")
