"""Make a bundle's folder ready to publish: its manifest, its signatures, and a look at both.

`pack` writes manifest.json, which is the same bytes for the same content and terms; `sign_folder`
adds a signature to manifest.sig; `verify_folder` proves everything that an agent would. A pipeline
may do each on another machine: the one that signs needs only the two small files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent import fs
from agent.bundles.errors import RejectedError
from agent.bundles.manifest import MAX_DOCUMENT, build_manifest, parse_manifest
from agent.bundles.model import MANIFEST, SIGNATURES, Manifest, Terms
from agent.bundles.signing import Signature, add_signature, good_keys, parse_signatures
from agent.bundles.validation import Report, validate_bundle
from agent.bundles.verified import Verified, verify
from agent.configpod import Limits
from agent.units import Version

Signer = Callable[[bytes], Signature]
Told = Callable[[int, int], None]
"""Told of progress: bytes done, bytes in all."""

_MODE = 0o644


def quiet(_done: int, _whole: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The manifest that a folder brings along, and who has signed it."""

    manifest: Manifest
    signatures: tuple[Signature, ...]

    def check(self, seen: Manifest) -> None:
        """Compare with what the folder really holds; raises RejectedError."""
        if seen.files != self.manifest.files:
            both = zip(seen.files, self.manifest.files, strict=False)
            path = next((a.path for a, b in both if a != b), seen.files[-1].path)
            raise RejectedError(
                f"{path} is not what {MANIFEST} says", "pack and sign the folder again"
            )


def read_packed(folder: Path, version: Version | None) -> Packed | None:
    """What `pack` and `sign` left in a folder; None where it is not packed.

    Raises:
        RejectedError: a document is damaged, or of another version.
        OSError: it cannot be read.
    """
    raw = _read(folder / MANIFEST)
    if raw is None:
        if _read(folder / SIGNATURES) is not None:
            raise RejectedError(f"{folder} has {SIGNATURES}, but no {MANIFEST}", "pack it first")
        return None
    manifest = parse_manifest(raw)
    if version is not None and manifest.version != version:
        raise RejectedError(
            f"{folder}/{MANIFEST} is of version {manifest.version}, not {version}",
            "pack the folder again, or remove that file",
        )
    signatures = _read(folder / SIGNATURES)
    return Packed(manifest, parse_signatures(signatures) if signatures is not None else ())


def pack(folder: Path, version: Version, terms: Terms) -> Manifest:
    """Prove the bundle and write its manifest.json; an earlier manifest.sig of another manifest is
    removed, because it would be of no use.

    Raises:
        RejectedError: the bundle is not sound.
        OSError: the folder cannot be read or written.
    """
    validate_bundle(folder, None, limits=Limits(), version=version)
    manifest = build_manifest(folder, version, terms)
    if _read(folder / MANIFEST) != manifest.raw:
        (folder / SIGNATURES).unlink(missing_ok=True)
        fs.write_durable(folder / MANIFEST, manifest.raw, _MODE)
    return manifest


def sign_folder(folder: Path, signer: Signer) -> Manifest:
    """Add a signature of the folder's manifest, which is not compared with the other files here:
    `pack` and `publish` do that, and an agent does.

    Raises:
        RejectedError: there is no manifest, or a document is damaged.
        OSError: the folder cannot be read or written.
    """
    raw = _read(folder / MANIFEST)
    if raw is None:
        raise RejectedError(f"{folder} has no {MANIFEST}", "`jules-agent bundle pack` it first")
    manifest = parse_manifest(raw)
    signatures = add_signature(_read(folder / SIGNATURES), signer(raw))
    fs.write_durable(folder / SIGNATURES, signatures, _MODE)
    return manifest


def verify_folder(
    folder: Path, trusted: Mapping[str, bytes], threshold: int
) -> tuple[Manifest, Report, list[str]]:
    """Prove a packed folder: structure, content, digests, and signatures where keys are given.

    Returns:
        The manifest, what the bundle holds, and the trusted keys that have signed it.

    Raises:
        RejectedError: the first thing that is wrong.
        OSError: the folder cannot be read.
    """
    packed = read_packed(folder, None)
    if packed is None:
        raise RejectedError(f"{folder} has no {MANIFEST}", "`jules-agent bundle pack` it first")
    manifest = packed.manifest
    signed = good_keys(manifest.raw, packed.signatures, trusted) if trusted else []
    if trusted and len(signed) < threshold:
        raise RejectedError(
            f"{manifest.version} has {len(signed)} good signatures by trusted keys, of {threshold}",
            "sign it with a trusted key, or find out who changed the manifest",
        )
    report = validate_bundle(folder, manifest, limits=Limits(), version=manifest.version)
    verify(folder, manifest, Verified())
    return manifest, report, signed


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT + 1)
    except FileNotFoundError:
        return None
