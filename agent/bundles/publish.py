"""Publish a bundle into a folder store, so that no reader ever finds half of one.

 1. The source is proved (`validation`): a bad bundle is refused here, not by every pod.
 2. Its files are copied into a folder of a random temporary name, hashed on the way, synced.
 3. The manifest of what was copied is written beside them, synced, and the folder as well.
 4. One rename makes the folder `bundles/<version>`; its parent is synced.
 5. The channel document is replaced: that is the commit, and the only thing readers act on.

A publisher that dies leaves a temporary folder, which the next one removes: the living hold a lock
on theirs. A version is written once: the same content again is fine, other content is refused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent import fs
from agent.bundles.errors import RejectedError, StoreError
from agent.bundles.folders import list_files, open_file, opened_folder
from agent.bundles.manifest import (
    CHUNK,
    build_manifest,
    channel_document,
    check_version,
    compose_manifest,
    parse_manifest,
)
from agent.bundles.model import MANIFEST, NO_TERMS, SIGNATURES, FileEntry, Manifest, Terms
from agent.bundles.packing import Packed, Signer, Told, quiet, read_packed
from agent.bundles.signing import add_signature
from agent.bundles.stores.folder import BUNDLES, CHANNELS, FolderStore, check_channel
from agent.bundles.validation import validate_bundle
from agent.configpod import Limits
from agent.units import Bytes, Digest, Version

_FOLDER_MODE = 0o755
_FILE_MODE = 0o444
_CHANNEL_MODE = 0o644


def publish(
    source: Path,
    store: Path,
    version: str,
    channel: str,
    *,
    terms: Terms = NO_TERMS,
    signer: Signer | None = None,
    progress: Told = quiet,
) -> Manifest:
    """Put the bundle in `source` into `store` as `version` and make `channel` ask for it.

    Args:
        source: its folder. A manifest.json in it is published as it stands, with its signatures.
        store: the store's folder.
        version: the bundle's version.
        channel: whose document is replaced, unless somebody else has replaced it meanwhile.
        terms: of the manifest, where the folder has none.
        signer: signs the manifest as it is published.
        progress: told the bytes done and the bytes in all.

    Raises:
        RejectedError: the bundle is not sound, changed since it was packed or while it was copied,
            or `version` exists with other content.
        StoreError: the store cannot be written, or the channel was changed by somebody else; the
            channel is as it was.
    """
    named = check_version(version)
    check_channel(channel)
    bundles, channels = store / BUNDLES, store / CHANNELS
    try:
        packed = read_packed(source, named)
        validate_bundle(source, packed.manifest if packed else None, limits=Limits(), version=named)
        before = _stamps(source)
    except OSError as error:
        raise RejectedError(f"{source}: {error.strerror}", "make the bundle readable") from None
    try:
        for folder in (bundles, channels):
            fs.make_dirs_durable(folder, _FOLDER_MODE)
        _sweep(bundles)
        seen = channel_bytes(store, channel)
        manifest = _existing(source, store, named, packed)
        if manifest is None:
            manifest = _put(source, bundles, named, before, packed, terms, signer, progress)
        else:
            _sign_again(bundles / named, manifest, packed, signer)
        swap_channel(store, channel, seen, channel_document(named, manifest.digest))
    except OSError as error:
        raise StoreError(
            f"folder {store}: {error.strerror}", "make it writable, with enough space, and retry"
        ) from None
    return manifest


def channel_bytes(store: Path, channel: str) -> bytes | None:
    """The channel document as it stands; None where there is none. Raises OSError."""
    try:
        return (store / CHANNELS / f"{check_channel(channel)}.json").read_bytes()
    except FileNotFoundError:
        return None


def swap_channel(store: Path, channel: str, seen: bytes | None, document: bytes) -> None:
    """Replace the channel document, if it still is what was `seen`.

    Raises:
        StoreError: somebody else replaced it.
        OSError: the store cannot be written.
    """
    folder = store / CHANNELS
    with opened_folder(folder) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)  # let go with the descriptor
        if channel_bytes(store, channel) != seen:
            raise StoreError(
                f"channel {channel} was changed by somebody else meanwhile",
                "look at what it asks for now, and publish again if that is still meant",
            )
        fs.write_durable(folder / f"{channel}.json", document, _CHANNEL_MODE)


def _sign_again(
    folder: Path, manifest: Manifest, packed: Packed | None, signer: Signer | None
) -> None:
    """Add new signatures to a version that is out: that is how a key is rotated."""
    path = folder / SIGNATURES
    raw = path.read_bytes() if path.exists() else None
    fresh = raw
    if packed is not None and packed.manifest.raw == manifest.raw:
        for item in packed.signatures:
            fresh = add_signature(fresh, item)
    if signer is not None:
        fresh = add_signature(fresh, signer(manifest.raw))
    if fresh is not None and fresh != raw:
        fs.write_durable(path, fresh, _FILE_MODE)


def _existing(
    source: Path, store: Path, version: Version, packed: Packed | None
) -> Manifest | None:
    """The manifest of the version that is there already, proved to be of the same content."""
    if not (store / BUNDLES / version).exists():
        return None
    there = FolderStore(store)
    raw = there.manifest(version)
    ours = build_manifest(source, version)
    theirs = parse_manifest(raw) if raw is not None else None
    held = {file.path: file.size for file in there.files(version)}
    other = packed is not None and theirs is not None and packed.manifest.raw != theirs.raw
    if theirs is None or other or theirs.files != ours.files or held != _sizes(ours):
        raise RejectedError(
            f"version {version} is in the store already, with other content",
            "publish under a new version: one that is out is never changed",
        )
    return theirs


def _sizes(manifest: Manifest) -> dict[str, Bytes]:
    return {entry.path: entry.size for entry in manifest.files}


def _put(
    source: Path,
    bundles: Path,
    version: Version,
    before: dict[str, _Stamp],
    packed: Packed | None,
    terms: Terms,
    signer: Signer | None,
    progress: Told,
) -> Manifest:
    with _temporary(bundles) as temp:
        entries = _copy(source, temp, before, progress)
        if _stamps(source) != before:
            raise RejectedError(
                f"{source} changed while it was published", "publish when it is complete"
            )
        manifest = compose_manifest(version, entries, terms)
        if packed is not None:
            packed.check(manifest)
            manifest = packed.manifest
        fs.write_durable(temp / MANIFEST, manifest.raw, _FILE_MODE)
        _sign_again(temp, manifest, packed, signer)
        for folder, _, _ in os.walk(temp, topdown=False):
            fs.fsync_dir(Path(folder))
        try:
            os.rename(temp, bundles / version)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise RejectedError(
                    f"version {version} was published by someone else meanwhile",
                    "publish again: it is fine where the content is the same",
                ) from None
            raise
        fs.fsync_dir(bundles)
    return manifest


_Stamp = tuple[int, int, int, int]
"""Device, inode, size and time of change of a file: what a change of it changes."""


def _stamps(source: Path) -> dict[str, _Stamp]:
    stamps: dict[str, _Stamp] = {}
    with opened_folder(source) as root:
        for file in list_files(root, Limits().max_files):
            status = os.stat(file.path, dir_fd=root, follow_symlinks=False)
            stamps[file.path] = (
                status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
            )  # fmt: skip
    return stamps


def _copy(source: Path, temp: Path, wanted: dict[str, _Stamp], progress: Told) -> list[FileEntry]:
    entries = []
    done, whole = 0, sum(stamp[2] for stamp in wanted.values())
    with opened_folder(source) as root:
        for path in sorted(wanted):
            target = temp / path
            _make_folders(target.parent, temp)
            fd = open_file(root, path)
            try:
                size, digest = _copy_file(fd, target)
            finally:
                os.close(fd)
            entries.append(FileEntry(path, size, digest))
            done += size
            progress(done, whole)
    return entries


def _make_folders(folder: Path, root: Path) -> None:
    """Folders of a bundle, readable by all whatever the publisher's umask is."""
    if folder == root or folder.is_dir():
        return
    _make_folders(folder.parent, root)
    folder.mkdir()
    folder.chmod(_FOLDER_MODE)


def _copy_file(source: int, target: Path) -> tuple[Bytes, Digest]:
    """Copy, hash and sync one file; its mode is set before anybody can see it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(target, flags, 0o600)
    hasher, size = hashlib.sha256(), 0
    try:
        os.fchmod(fd, _FILE_MODE)
        while piece := os.read(source, CHUNK):
            hasher.update(piece)
            fs.write_all(fd, piece)
            size += len(piece)
        os.fsync(fd)
    finally:
        os.close(fd)
    return Bytes(size), Digest("sha256:" + hasher.hexdigest())


@contextmanager
def _temporary(bundles: Path) -> Iterator[Path]:
    """A locked folder beside the versions, removed unless the body renamed it away."""
    temp = bundles / fs.temp_name()
    os.mkdir(temp, 0o700)
    fd = os.open(temp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(fd, _FOLDER_MODE)
        yield temp
    finally:
        os.close(fd)
        shutil.rmtree(temp, ignore_errors=True)


def _sweep(bundles: Path) -> None:
    """Remove the temporary folders of publishers that died."""
    for name in os.listdir(bundles):
        if not name.startswith(fs.TEMP_PREFIX):
            continue
        with suppress(OSError), opened_folder(bundles / name) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by a living publisher: left alone
            shutil.rmtree(bundles / name, ignore_errors=True)
