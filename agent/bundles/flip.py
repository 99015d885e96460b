"""The two links: which version is live, and which one to go back to.

Forward, from v1 to v2:
1. v2 is looked at once more: manifest there, every file with its size
2. `previous` -> v1, synced
3. `current` -> v2, by one rename
4. the root is synced
Killed before 3, `current` and `previous` both name v1: nothing is lost but an older `previous`.

Back, from a bad v2 to v1:
1. v1 is looked at once more
2. `current` -> v1, by one rename, synced
3. `previous` -> the newest good version besides, or no link
Killed before 3, both name v1. Either way `reconcile` puts `previous` right at the next start, and
at every instant `current` names a complete version. Staging has synced that version before, so a
power cut finds its files too. Callers hold `Layout.lock`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from agent import fs
from agent.bundles.errors import RejectedError, RolloutError
from agent.bundles.layout import Layout
from agent.bundles.manifest import build_manifest
from agent.bundles.model import MANIFEST, REQUIRED_FILES
from agent.bundles.staging import sweep
from agent.units import Monotonic, Seconds, Version


def settle_left(last: Monotonic, now: Monotonic, settle: Seconds) -> Seconds:
    """How long the next flip must still wait. A reader that opens two files by path, instead of
    through one descriptor, straddles at most one flip in `settle` seconds."""
    return Seconds(min(settle, max(0.0, last + settle - now)))


def forward(layout: Layout, version: Version) -> None:
    """Make `version` live and the version that was live the one to go back to.

    Raises:
        RejectedError: `version` is not complete; nothing was moved.
        RolloutError: this file system refused; `current` still points where it did.
    """
    layout.require(version)
    live = layout.live()
    if live == version:
        return
    if live is not None and layout.flaw(live) is None:
        _point(layout, layout.previous, live)
    _point(layout, layout.current, version)


def back(layout: Layout, version: Version, previous: Version | None) -> None:
    """Make `version` live again; `previous` is what to go back to from there. Raises as
    `forward`."""
    layout.require(version)
    if layout.live() != version:
        _point(layout, layout.current, version)
    set_previous(layout, previous)


def nothing_live(layout: Layout) -> None:
    """Take `current` away: only for a first version that turned out bad, when none was good.

    Raises:
        RolloutError: this file system refused.
    """
    try:
        fs.unlink_durable(layout.current)
    except OSError as error:
        raise _refused(layout.current, error) from error


def set_previous(layout: Layout, version: Version | None) -> None:
    """Point `previous` at `version`, or remove it; raises RolloutError."""
    if version is not None:
        if layout.version_at(layout.previous) != version:
            _point(layout, layout.previous, version)
        return
    try:
        fs.unlink_durable(layout.previous)
    except OSError as error:
        raise _refused(layout.previous, error) from error


def choose(
    layout: Layout, good: Iterable[Version], *, besides: Iterable[Version]
) -> Version | None:
    """The first of `good` that is complete here and not one of `besides`."""
    avoided = set(besides)
    for version in good:
        if version not in avoided and layout.flaw(version) is None:
            return version
    return None


def reconcile(layout: Layout, good: Iterable[Version], *, adopt: bool) -> list[str]:
    """Bring the root to where everything may rely on it; return what had to be put right.

    `current` is the truth: while it names a complete version it is never moved here. `good` are
    versions to repair with, best first. With `adopt`, a live version that has no manifest (one
    that the trading system's earlier scripts put there) is given one.

    Raises:
        RolloutError: the root cannot be written, or `current` is no link.
    """
    layout.prepare()
    repaired = [f"removed leftover {name}" for name in sweep(layout)]
    if layout.current.is_dir() and not layout.current.is_symlink():
        raise RolloutError(
            f"{layout.current} is a folder, not a link",
            f"move it to {layout.bundles}/NAME and link it: ln -s bundles/NAME {layout.current}",
        )
    candidates = list(good)
    live = layout.live()
    if live is not None and adopt and _adopt(layout, live):
        repaired.append(f"wrote the manifest that {live} lacked")
    before = layout.version_at(layout.previous)
    flaw = "there is no current" if live is None else layout.flaw(live)
    if flaw is not None:
        if before is not None and before not in candidates:
            candidates.append(before)
        found = choose(layout, candidates, besides=())
        if found is not None:
            _point(layout, layout.current, found)
            repaired.append(f"current is {found} now: {flaw}")
            live = found
    if before is None and not layout.previous.is_symlink():
        return repaired
    if before is None or before == live or layout.flaw(before) is not None:
        besides = () if live is None else (live,)
        found = choose(layout, candidates, besides=besides)
        set_previous(layout, found)
        repaired.append(f"previous is {found or 'none'} now, not {before}")
    return repaired


def _adopt(layout: Layout, version: Version) -> bool:
    folder = layout.folder(version)
    if (folder / MANIFEST).exists() or not all(
        (folder / name).is_file() for name in REQUIRED_FILES
    ):
        return False
    try:
        mode = folder.stat().st_mode & 0o777
        os.chmod(folder, mode | 0o200)
        fs.write_durable(folder / MANIFEST, build_manifest(folder, version).raw, 0o444)
        os.chmod(folder, mode)
    except (OSError, RejectedError):
        return False
    return True


def _point(layout: Layout, link: Path, version: Version) -> None:
    try:
        fs.replace_link(link, f"{layout.bundles.name}/{version}")
    except OSError as error:
        raise _refused(link, error) from error


def _refused(link: Path, error: OSError) -> RolloutError:
    return RolloutError(
        f"{link} cannot be moved: {error.strerror}",
        "check that it is a link, that the folder is writable and that its volume has space",
    )
