"""Which versions leave this disk, and how, so that no reader loses one under its feet.

Kept, whatever else: `current`, `previous`, what a person pinned, what the channel asks for, and
what a rollout is about. Then the newest `keep` good ones, whatever was used within `hours`, and
what is in quarantine for `evidence_hours`. `plan` decides (pure); `take_away` does it, version by
version:

1. an exclusive lock (flock) on the folder, without waiting: a reader's lease (`agent.reader`) has
   it shared, and then the version stays until the next time
2. still neither `current` nor `previous`: links are looked at again, under the root's lock
3. one rename to a name in `.staging` that nobody else uses, and the folder of versions synced: from
   here on it is gone, and whatever a kill leaves is swept at the next start
4. the lock is let go; a reader that waited for it finds that `current` is another version
`delete` then removes the bytes, outside the root's lock: that takes long, and stops no flip.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent import fs
from agent.bundles.errors import RolloutError
from agent.bundles.layout import Layout
from agent.configrollouts import Retention
from agent.units import Bytes, UnixTime, Version

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan rests on."""

    versions: Sequence[Version]
    used: Mapping[Version, UnixTime]
    """When each was last staged, or the subject of a rollout."""
    good: Collection[Version]
    quarantined: Collection[Version]
    protected: Collection[Version]


def plan(rules: Retention, facts: Facts, now: UnixTime) -> list[Version]:
    """What may go, oldest first."""

    def used(version: Version) -> UnixTime:
        return facts.used.get(version, UnixTime(0.0))

    newest = sorted(facts.versions, key=lambda version: (used(version), version), reverse=True)
    counted = [item for item in newest if item in facts.good or item in facts.protected]
    kept = {*facts.protected, *counted[: rules.keep]}
    for version in newest:
        hours = rules.evidence_hours if version in facts.quarantined else rules.hours
        if now - used(version) < hours * _HOUR:
            kept.add(version)
    return [version for version in reversed(newest) if version not in kept]


@dataclass(frozen=True, slots=True)
class Taken:
    """A version that is gone from `bundles/`; its bytes are still to be deleted."""

    version: Version
    trash: Path
    size: Bytes


def take_away(layout: Layout, version: Version) -> Taken | None:
    """Steps 1 to 4; None when a reader is in it, or it has become live. Caller holds
    `Layout.lock`.

    Raises:
        RolloutError: this file system refused; the version is where it was.
    """
    folder = layout.folder(version)
    trash = layout.staging / f"{version}.trash-{secrets.token_hex(6)}"
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if version in (layout.live(), layout.version_at(layout.previous)):
                return None
            size = freed(layout, version)
            mode = os.fstat(fd).st_mode & 0o7777
            os.fchmod(fd, 0o755)  # moving a folder to another parent writes to it
            try:
                os.rename(folder, trash)
            except OSError:
                os.fchmod(fd, mode)
                raise
            fs.fsync_dir(layout.bundles)
        finally:
            os.close(fd)
    except BlockingIOError:
        return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RolloutError(
            f"{version} cannot be taken away: {error.strerror}",
            "see that the agent's uid owns the bundles below its root",
        ) from error
    return Taken(version, trash, size)


def delete(taken: Taken) -> None:
    """Remove the bytes. What cannot be removed now is swept at the next start."""
    with suppress(OSError):
        fs.remove_tree(taken.trash)


def freed(layout: Layout, version: Version) -> Bytes:
    """What its removal gives back: files that another version shares by a link give nothing."""
    total = 0
    for folder, _, names in os.walk(layout.folder(version)):
        for name in names:
            with suppress(OSError):
                seen = os.lstat(os.path.join(folder, name))
                total += seen.st_blocks * 512 if seen.st_nlink == 1 else 0
    return Bytes(total)


def leased(layout: Layout, version: Version) -> bool:
    """Whether a reader is in it now."""
    try:
        fd = os.open(layout.folder(version), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def staged_at(layout: Layout, versions: Sequence[Version]) -> dict[Version, UnixTime]:
    """When each version's folder got its place: its own time of change."""
    found = {}
    for version in versions:
        with suppress(OSError):
            found[version] = UnixTime(os.stat(layout.folder(version)).st_mtime)
    return found
