"""From a store to a complete, read-only version below `bundles/`, or to nothing at all.

1. what must be there is known before a byte moves: manifest, sizes, limits, free space
2. the folder `.staging/<version>.<random>` is made, on the file system that it will live on
3. each file is hard-linked from a version that holds the same digest, or copied: hashed as its
   bytes arrive, compared with the manifest, made read-only, synced
4. the manifest is written and every folder synced, innermost first
5. the staged folder is validated: our own bytes, not the store's (docs/decisions/0004)
6. one rename puts it below `bundles/`, and that folder is synced

Killed anywhere before 6, only a leftover in `.staging` remains, which the next start removes. After
6 the version is durable and complete, so that a flip may follow. Callers hold `Layout.lock`.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent import fs
from agent.bundles import parts
from agent.bundles.copying import copy_file, link, write_new
from agent.bundles.errors import BundleError, NoRoomError, RejectedError, RolloutError
from agent.bundles.folders import check_path
from agent.bundles.layout import AGENT_LOCK, Layout
from agent.bundles.manifest import compose_manifest, parse_manifest
from agent.bundles.model import MANIFEST, SIGNATURES, FileEntry, Manifest
from agent.bundles.parts import Parts, Resumable
from agent.bundles.stores.base import Store, StoreFile
from agent.bundles.verified import Verified, sound, verify
from agent.configpod import Limits
from agent.units import Bytes, Digest, Version

if TYPE_CHECKING:
    from agent.bundles.trust import Proof
    from agent.bundles.validation import Report

_OPEN, _CLOSED = 0o755, 0o555  # the trader may have a uid of its own
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Draft:
    """A version's files on this file system. Not `fresh`: they were here before, below `bundles`.
    `damaged`: what is below `bundles` under this name is broken and will be replaced. `sequence`:
    the signed one, for `Trust.accept`."""

    version: Version
    manifest: Manifest
    folder: Path
    fresh: bool
    damaged: bool = False
    sequence: int | None = None
    copied: int = 0
    linked: int = 0

    def told(self) -> str:
        """In words, for the step's record."""
        if not self.fresh:
            return "already here"
        linked = f", {self.linked} of {len(self.manifest.files)} files linked" * bool(self.linked)
        return f"{self.copied} bytes copied{linked}"


def _never() -> bool:
    return False


def sweep(layout: Layout) -> list[str]:
    """Remove every leftover of a kill; return their names."""
    swept = []
    for name in sorted(os.listdir(layout.staging)):
        if name in ("lock", AGENT_LOCK, parts.FOLDER):
            continue
        path = layout.staging / name
        if path.is_dir() and not path.is_symlink():
            fs.remove_tree(path)
        else:
            with suppress(FileNotFoundError):
                os.unlink(path)
        swept.append(name)
    return swept + fs.sweep(layout.root)


def copy(
    layout: Layout,
    store: Store,
    version: Version,
    *,
    limits: Limits,
    manifest_required: bool,
    digest: Digest | None = None,
    verified: Verified | None = None,
    proof: Proof | None = None,
    stop: Callable[[], bool] = _never,
) -> Draft:
    """Steps 1 to 4. `digest` is the manifest's, where the channel names it; `proof` judges whose
    signature counts; `stop` is asked between chunks.

    Raises:
        RejectedError: the version is not what its manifest says, or other content is already here
            under its name.
        TrustError: nobody whom we trust says that it may go live.
        StoreError: the store does not answer.
        NoRoomError: there is not enough room.
        AbandonedError: `stop` said so.
        RolloutError: this file system refused.
    """
    verified = verified or Verified()
    demanded = manifest_required or (proof is not None and proof.required)
    manifest = _manifest(store, version, digest, required=demanded)
    signatures = store.signatures(version) if manifest is not None else None
    sequence = proof.judge(manifest, signatures) if proof and manifest else None
    damaged = False
    if manifest is not None:
        here = _here(layout, version)
        if here is not None and here.digest != manifest.digest:
            raise _other_content(version)
        if here is not None:
            try:
                verify(layout.folder(version), here, verified)
                return Draft(version, here, layout.folder(version), fresh=False, sequence=sequence)
            except RejectedError:
                damaged = True
    damaged = damaged or (layout.folder(version).exists() and _here(layout, version) is None)
    listing = store.files(version)
    _check_listing(version, listing, manifest, limits)
    links = _linkable(layout, manifest, verified) if manifest else {}
    held = Parts(layout.staging)
    held.keep_only([entry.digest for entry in manifest.files] if manifest else ())
    _check_room(layout, manifest, listing, links, limits, held)
    folder = layout.staging / f"{version}.{secrets.token_hex(6)}"
    try:
        os.mkdir(folder, 0o700)
        draft = _fill(store, version, folder, listing, manifest, links, verified, held, stop)
        if signatures is not None:
            write_new(folder / SIGNATURES, signatures)
            fs.fsync_dir(folder)
    except OSError as error:
        _discard(folder)
        raise _refused(version, error) from error
    except BaseException:
        _discard(folder)
        raise
    here = _here(layout, version)
    if manifest is None and here is not None:  # only now is it known what the store holds
        if here.digest != draft.manifest.digest:
            _discard(folder)
            raise _other_content(version)
        damaged = not sound(layout.folder(version), here, verified)
        if not damaged:
            _discard(folder)
            return Draft(version, here, layout.folder(version), fresh=False)
    return replace(draft, damaged=damaged, sequence=sequence)


def prove(draft: Draft, *, limits: Limits) -> Report:
    """Step 5.

    Raises:
        RejectedError: the content is not good.
    """
    from agent.bundles.validation import validate_bundle  # 10 ms that a restarted pod never needs

    return validate_bundle(draft.folder, draft.manifest, limits=limits, version=draft.version)


def keep(layout: Layout, draft: Draft, proof: Proof | None = None) -> Path:
    """Step 6; returns the version's folder. From here on nothing older is brought by `proof`.

    Raises:
        RolloutError: this file system refused; nothing is below `bundles` that was not there.
    """
    target = layout.folder(draft.version)
    if proof is not None and draft.sequence is not None:
        proof.trust.accept(draft.sequence)
    if not draft.fresh:
        return target
    try:
        if draft.damaged:
            aside = layout.staging / f"{draft.version}.damaged-{secrets.token_hex(6)}"
            os.chmod(target, _OPEN)
            os.rename(target, aside)
            fs.rename_durable(draft.folder, target)
            fs.remove_tree(aside)
        else:
            fs.rename_durable(draft.folder, target)
        # Only now: moving a folder to another parent writes to it.
        os.chmod(target, _CLOSED)
        fs.fsync_dir(target)
    except OSError as error:
        raise _refused(draft.version, error) from error
    return target


def discard(draft: Draft) -> None:
    """Leave nothing of a draft that will not be kept."""
    if draft.fresh:
        _discard(draft.folder)


def stage(
    layout: Layout,
    store: Store,
    version: Version,
    *,
    limits: Limits,
    manifest_required: bool,
    digest: Digest | None = None,
    verified: Verified | None = None,
    proof: Proof | None = None,
) -> Draft:
    """All steps at once; raises as `copy`, `prove` and `keep`, and leaves nothing then."""
    draft = copy(
        layout,
        store,
        version,
        limits=limits,
        manifest_required=manifest_required,
        digest=digest,
        verified=verified,
        proof=proof,
    )
    try:
        prove(draft, limits=limits)
        keep(layout, draft, proof)
    except BaseException:
        discard(draft)
        raise
    return draft


def _manifest(
    store: Store, version: Version, digest: Digest | None, *, required: bool
) -> Manifest | None:
    raw = store.manifest(version)
    if raw is None:
        if required or digest is not None:
            raise RejectedError(
                f"{version} has no {MANIFEST}", "publish it with `jules-agent bundle publish`"
            )
        return None
    manifest = parse_manifest(raw)
    if manifest.version != version:
        raise RejectedError(f"the manifest of {version} is that of {manifest.version}")
    if digest is not None and manifest.digest != digest:
        raise RejectedError(
            f"the manifest of {version} is not the one that the channel names",
            "publish the version again, under a name of its own",
        )
    return manifest


def _here(layout: Layout, version: Version) -> Manifest | None:
    try:
        return layout.manifest(version)
    except (BundleError, OSError):
        return None


def _other_content(version: Version) -> RejectedError:
    return RejectedError(
        f"{version} is already here with other content",
        "versions never change: publish the new content under a new name",
    )


def _refused(version: Version, error: OSError) -> BundleError:
    if error.errno in _FULL:
        return NoRoomError(f"no space left to stage {version}", "free space on the root's volume")
    name = f" ({error.filename})" if error.filename else ""
    return RolloutError(f"{version} cannot be staged: {error.strerror}{name}")


def _check_listing(
    version: Version, listing: list[StoreFile], manifest: Manifest | None, limits: Limits
) -> None:
    total = sum(file.size for file in listing)
    if len(listing) > limits.max_files:
        raise RejectedError(f"{version} has {len(listing)} files, more than {limits.max_files}")
    if total > limits.max_size:
        raise RejectedError(f"{version} is {total} bytes, more than {limits.max_size}")
    for file in listing:
        check_path(file.path, version)
    if manifest is None:
        return
    seen = {file.path: file.size for file in listing}
    told: dict[str, Bytes] = {entry.path: entry.size for entry in manifest.files}
    for path in sorted(seen.keys() | told.keys()):
        if path not in seen:
            raise RejectedError(f"{version}: {path} is in the manifest but not in the store")
        if path not in told:
            raise RejectedError(f"{version}: {path} is in the store but not in the manifest")
        if seen[path] != told[path]:
            raise RejectedError(
                f"{version}: {path} has {seen[path]} bytes; its manifest says {told[path]}"
            )


def _linkable(layout: Layout, manifest: Manifest, verified: Verified) -> dict[Digest, Path]:
    """For each digest that some version here already holds intact: where."""
    wanted = {entry.digest for entry in manifest.files}
    found: dict[Digest, Path] = {}
    for version in layout.versions():
        other = _here(layout, version)
        for entry in other.files if other else ():
            if entry.digest in wanted and entry.digest not in found:
                path = layout.folder(version) / entry.path
                with suppress(OSError):
                    if not path.is_symlink() and verified.check(path, entry.digest):
                        found[entry.digest] = path
    return found


def _check_room(
    layout: Layout,
    manifest: Manifest | None,
    listing: list[StoreFile],
    links: dict[Digest, Path],
    limits: Limits,
    held: Parts,
) -> None:
    need: int
    if manifest is None:
        need = sum(file.size for file in listing)
    else:
        new = [entry for entry in manifest.files if entry.digest not in links]
        need = sum(max(0, entry.size - held.held(entry.digest)) for entry in new)
    free = fs.free_bytes(layout.root)
    if free < need + limits.headroom:
        raise NoRoomError(
            f"not enough room below {layout.root}: {need} bytes to copy and {limits.headroom} "
            f"to leave free, {free} free",
            "free space on the root's volume, or lower bundles.limits.headroom",
        )


def _fill(
    store: Store,
    version: Version,
    folder: Path,
    listing: list[StoreFile],
    manifest: Manifest | None,
    links: dict[Digest, Path],
    verified: Verified,
    held: Parts,
    stop: Callable[[], bool],
) -> Draft:
    copied, linked = 0, 0
    seen: list[FileEntry] = []
    told = {entry.path: entry for entry in manifest.files} if manifest else {}
    for file in listing:
        target = folder / file.path
        os.makedirs(target.parent, mode=0o700, exist_ok=True)
        entry = told.get(file.path)
        if entry is not None and link(links.get(entry.digest), target):
            linked += 1
            continue
        if entry is not None and isinstance(store, Resumable):
            digest = held.fetch(store, version, entry, target, stop)
        else:
            with store.open(version, file.path) as source:
                digest = copy_file(source, target, version, file, entry, stop)
        verified.learn(target, digest)
        seen.append(FileEntry(file.path, file.size, digest))
        copied += file.size
    if manifest is None:
        manifest = compose_manifest(version, seen)
    write_new(folder / MANIFEST, manifest.raw)
    for inner, _, _ in os.walk(folder, topdown=False):
        os.chmod(inner, _OPEN if inner == str(folder) else _CLOSED)
        fs.fsync_dir(Path(inner))
    return Draft(version, manifest, folder, True, copied=copied, linked=linked)


def _discard(folder: Path) -> None:
    with suppress(OSError):
        fs.remove_tree(folder)
