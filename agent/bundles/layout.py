"""Where things are below the deployment root, and what a look at them says.

    current  -> bundles/v2025-07-08     what is live: the truth
    previous -> bundles/v2025-07-06     the newest good version to go back to
    bundles/<version>/                  complete, verified, read-only
    .staging/<version>.<random>/        being made; whatever is found here at a start is a leftover

Only looks, and makes the folders; what moves a link is in `flip`, what fills a version in
`staging`. Whoever changes anything here holds `Layout.lock`, which the kernel takes back from a
process that dies.
"""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from agent import fs
from agent.bundles.errors import BundleError, RejectedError, RolloutError
from agent.bundles.manifest import parse_manifest
from agent.bundles.model import MANIFEST, Manifest
from agent.units import UnixTime, Version

AGENT_LOCK = "agent.lock"
"""In `.staging`: held by the one agent that works in this root, for its whole life."""
_OPEN_MODE = 0o755  # the trader may have a uid of its own; bundles hold no secret


@dataclass(frozen=True, slots=True)
class Layout:
    """The names below one deployment root."""

    root: Path

    @property
    def current(self) -> Path:
        return self.root / "current"

    @property
    def previous(self) -> Path:
        return self.root / "previous"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"

    @property
    def staging(self) -> Path:
        return self.root / ".staging"

    def folder(self, version: Version) -> Path:
        """Where a complete version is."""
        return self.bundles / version

    def lock(self, what: str) -> AbstractContextManager[None]:
        """Keep every other process, and thread, from changing this root; raises BusyError."""
        return fs.lock(self.staging / "lock", what)

    def prepare(self) -> None:
        """Make the folders that are missing.

        Raises:
            RolloutError: the root cannot be written.
        """
        try:
            for folder, mode in (
                (self.root, _OPEN_MODE),
                (self.bundles, _OPEN_MODE),
                (self.staging, 0o700),
            ):
                if not folder.is_dir():
                    fs.make_dirs_durable(folder)
                    os.chmod(folder, mode)
        except OSError as error:
            raise RolloutError(
                f"deployment root {self.root} cannot be prepared: {error.strerror}",
                "make it writable for the agent's uid",
            ) from error

    def live(self) -> Version | None:
        """The version that `current` names, whether or not it is there; None without a link."""
        return self.version_at(self.current)

    def version_at(self, link: Path) -> Version | None:
        """The version that `link` names: None when there is no link, or it leads elsewhere."""
        target = fs.read_link(link)
        if target is None:
            return None
        place = os.path.normpath(os.path.join(self.root, target))
        folder, name = os.path.split(place)
        here = folder == os.path.normpath(self.bundles) or os.path.realpath(
            folder
        ) == os.path.realpath(self.bundles)
        return Version(name) if here and name else None

    def live_since(self) -> UnixTime | None:
        """When `current` was made to point where it does: the link's own time."""
        try:
            return UnixTime(os.lstat(self.current).st_mtime)
        except OSError:
            return None

    def versions(self) -> list[Version]:
        """Every version that is here, by name."""
        try:
            with os.scandir(self.bundles) as entries:
                return sorted(
                    Version(entry.name)
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
                )
        except FileNotFoundError:
            return []

    def manifest(self, version: Version) -> Manifest | None:
        """The manifest of a version that is here; None when it has none.

        Raises:
            RejectedError: the document is damaged.
        """
        try:
            with open(self.folder(version) / MANIFEST, "rb") as file:
                return parse_manifest(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def flaw(self, version: Version) -> str | None:
        """What a quick look (no bytes read but the manifest's) finds missing; None: complete."""
        folder = self.folder(version)
        if not folder.is_dir():
            return f"{version} is not there"
        try:
            manifest = self.manifest(version)
        except BundleError as error:
            return str(error)
        except OSError as error:
            return f"{version}/{MANIFEST} cannot be read: {error.strerror}"
        if manifest is None:
            return f"{version} has no {MANIFEST}"
        if manifest.version != version:
            return f"{version} holds the manifest of {manifest.version}"
        for entry in manifest.files:
            try:
                seen = os.lstat(folder / entry.path)
            except OSError as error:
                return f"{version}/{entry.path}: {error.strerror}"
            if not stat.S_ISREG(seen.st_mode) or seen.st_size != entry.size:
                return f"{version}/{entry.path} is not the file of {entry.size} bytes it should be"
        return None

    def require(self, version: Version) -> Manifest:
        """The manifest of a complete version.

        Raises:
            RejectedError: it is not complete; names what is missing.
        """
        flaw = self.flaw(version)
        manifest = None if flaw else self.manifest(version)
        if manifest is None:
            raise RejectedError(
                flaw or f"{version} has no {MANIFEST}", "deploy it again from the store"
            )
        return manifest
