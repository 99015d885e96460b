"""The two documents of the bundle format: a version's manifest and a channel's wish.

A manifest lists every file of a version with size and digest; its own digest is the identity of
the content. Both are small JSON objects with a schema number and no unknown keys: a key that this
agent does not know might be the one that says "not yet", so it is refused rather than skipped.
Everything here is pure but `build_manifest` and `sha256_file`, which read files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.bundles.errors import RejectedError
from agent.bundles.folders import (
    RESERVED,
    check_distinct,
    check_path,
    list_files,
    open_file,
    opened_folder,
)
from agent.bundles.model import MANIFEST, NO_TERMS, Desired, FileEntry, Manifest, Terms, WayBack
from agent.units import Bytes, Digest, UnixTime, Version

SCHEMA = 1
MAX_DOCUMENT = 4 * 1024**2
MAX_ENTRIES = 20_000
MAX_FILE = 2**50
MAX_SEQUENCE = 2**53 - 1
"""The largest whole number that every JSON reader keeps exact."""
CHUNK = 1024**2

_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RELEASE = re.compile(r"\d{1,6}(\.\d{1,6}){1,2}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def check_version(text: str) -> Version:
    """`text` as a version: one safe path component, such as `v2025-07-08`.

    Raises:
        RejectedError: it is not one.
    """
    if not _VERSION.fullmatch(text):
        raise RejectedError(
            f"{text[:120]!a} is no version name",
            "use letters, digits, '.', '_', '+' and '-', at most 128, not starting with '.'",
        )
    return Version(text)


def check_digest(value: object, where: str) -> Digest:
    """`value` as a digest: `sha256:` and 64 lower-case hex digits; raises RejectedError."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise RejectedError(f"{where}: a digest is sha256: and 64 lower-case hex digits")
    return Digest(value)


def sha256_file(file: int | Path) -> Digest:
    """Digest of a file, given as an open descriptor (read from its current offset) or a path.

    Raises:
        OSError: it cannot be read, or the path is a link.
    """
    if isinstance(file, Path):
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return sha256_file(fd)
        finally:
            os.close(fd)
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    while count := os.readv(file, [buffer]):
        hasher.update(buffer[:count])
    return Digest("sha256:" + hasher.hexdigest())


def build_manifest(folder: Path, version: Version, terms: Terms = NO_TERMS) -> Manifest:
    """The manifest of what `folder` holds; the same content and terms give the same bytes.

    Raises:
        RejectedError: the folder holds something that no manifest can name.
        OSError: a file cannot be read.
    """
    entries = []
    with opened_folder(folder) as root:
        for file in list_files(root, MAX_ENTRIES):
            fd = open_file(root, file.path)
            try:
                digest = sha256_file(fd)
                size = os.lseek(fd, 0, os.SEEK_CUR)  # what was hashed, whatever the listing said
            finally:
                os.close(fd)
            entries.append(FileEntry(file.path, Bytes(size), digest))
    return compose_manifest(version, entries, terms)


def compose_manifest(
    version: Version, entries: list[FileEntry], terms: Terms = NO_TERMS
) -> Manifest:
    """The manifest of `entries`, as canonical JSON: sorted, indented, one line end at the end.

    Raises:
        RejectedError: the entries are not ones that `parse_manifest` would accept.
    """
    files = [
        {"path": entry.path, "size": entry.size, "digest": entry.digest}
        for entry in sorted(entries, key=lambda entry: entry.path)
    ]
    tree: dict[str, Any] = {"schema": SCHEMA, "version": version, "files": files}
    tree["requires"] = {"agent": terms.agent} if terms.agent is not None else {}
    if terms.sequence is not None:
        tree["sequence"] = terms.sequence
    if terms.expires is not None:
        tree["expires"] = format_time(terms.expires)
    return parse_manifest((json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode())


def parse_manifest(raw: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        RejectedError: anything in it is not as the format says; names the entry.
    """
    tree = _object(raw, MANIFEST, {"schema", "version", "files", "requires", "sequence", "expires"})
    terms = _terms(tree)
    listed = tree.get("files")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_ENTRIES:
        raise RejectedError(f"{MANIFEST}: `files` is not a list of 1 to {MAX_ENTRIES} files")
    files = tuple(_entry(number, item) for number, item in enumerate(listed))
    check_distinct((entry.path for entry in files), MANIFEST)
    return Manifest(_version(tree, MANIFEST), files, raw, terms)


def _terms(tree: dict[str, Any]) -> Terms:
    requires = tree.get("requires", {})
    if not isinstance(requires, dict) or set(requires) - {"agent"}:
        raise RejectedError(
            f"{MANIFEST}: `requires` is not an object of at most `agent`",
            "a newer agent may be needed",
        )
    agent = requires.get("agent")
    if agent is not None and not (isinstance(agent, str) and _RELEASE.fullmatch(agent)):
        raise RejectedError(f"{MANIFEST}: requires.agent is no release such as 1.2.0")
    sequence = tree.get("sequence")
    if sequence is not None and (type(sequence) is not int or not 0 < sequence <= MAX_SEQUENCE):
        raise RejectedError(f"{MANIFEST}: `sequence` is no whole number from 1 to {MAX_SEQUENCE}")
    expires = tree.get("expires")
    return Terms(sequence, None if expires is None else parse_time(expires, MANIFEST), agent)


def parse_time(value: object, where: str) -> UnixTime:
    """A time in UTC, written as `2026-01-31T00:00:00Z`; raises RejectedError."""
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return UnixTime(datetime.fromisoformat(value).timestamp())
        except ValueError:
            pass
    raise RejectedError(f"{where}: a time is written as 2026-01-31T00:00:00Z")


def format_time(at: UnixTime) -> str:
    """What `parse_time` reads; whole seconds."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def why_too_old(terms: Terms, agent: str) -> str | None:
    """Why release `agent` of this program is too old for a manifest; None when it is not."""
    if terms.agent is None or _release(agent) >= _release(terms.agent):
        return None
    return f"it needs jules-agent {terms.agent} or newer; this is {agent}"


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def _entry(number: int, item: object) -> FileEntry:
    where = f"{MANIFEST}: files[{number}]"
    if not isinstance(item, dict) or set(item) != {"path", "size", "digest"}:
        raise RejectedError(f"{where} is not an object of exactly `path`, `size` and `digest`")
    path, size = item["path"], item["size"]
    if not isinstance(path, str):
        raise RejectedError(f"{where}: `path` is not a text")
    check_path(path, where)
    if path in RESERVED:
        raise RejectedError(f"{where}: {path} cannot list itself")
    if type(size) is not int or not 0 <= size <= MAX_FILE:  # a bool is an int too
        raise RejectedError(f"{where}: the size of {path} is not a whole number of bytes")
    return FileEntry(path, Bytes(size), check_digest(item["digest"], where))


def parse_channel(raw: bytes) -> Desired:
    """Read a channel document.

    Raises:
        RejectedError: it is not complete JSON, or holds what this agent does not know.
    """
    where = "channel document"
    tree = _object(raw, where, {"schema", "version", "digest", "way_back"})
    digest = tree.get("digest")
    return Desired(
        _version(tree, where),
        None if digest is None else check_digest(digest, where),
        _way_back(tree["way_back"], f"{where}: way_back") if "way_back" in tree else None,
    )


def _way_back(tree: object, where: str) -> WayBack:
    if not isinstance(tree, dict) or set(tree) != {"from", "until", "signatures"}:
        raise RejectedError(f"{where} is not an object of `from`, `until` and `signatures`")
    since, signatures = tree["from"], tree["signatures"]
    if type(since) is not int or not 0 < since <= MAX_SEQUENCE:
        raise RejectedError(f"{where}: `from` is no sequence")
    if not isinstance(signatures, list) or not all(isinstance(item, dict) for item in signatures):
        raise RejectedError(f"{where}: `signatures` is not a list of signatures")
    return WayBack(since, parse_time(tree["until"], where), tuple(signatures))


def channel_document(
    version: Version, digest: Digest | None, way_back: WayBack | None = None
) -> bytes:
    """The bytes of a channel document that asks for `version` with this manifest digest."""
    tree: dict[str, Any] = {"schema": SCHEMA, "version": version}
    if digest is not None:
        tree["digest"] = digest
    if way_back is not None:
        tree["way_back"] = {
            "from": way_back.since,
            "until": format_time(way_back.until),
            "signatures": list(way_back.signatures),
        }
    return (json.dumps(tree) + "\n").encode()


def _version(tree: dict[str, Any], where: str) -> Version:
    version = tree.get("version")
    if not isinstance(version, str):
        raise RejectedError(f"{where}: `version` is missing or not a text")
    return check_version(version)


def _object(raw: bytes, where: str, known: set[str]) -> dict[str, Any]:
    tree = parse_json(raw, where)
    if tree.get("schema", SCHEMA) != SCHEMA or isinstance(tree.get("schema"), bool):
        raise RejectedError(
            f"{where}: schema is not {SCHEMA}", "update the agent, or write this schema"
        )
    if unknown := sorted(set(tree) - known):
        raise RejectedError(
            f"{where}: unknown key {unknown[0][:60]!a}",
            f"known are {', '.join(sorted(known))}; a newer agent may be needed",
        )
    return tree


def parse_json(raw: bytes, where: str) -> dict[str, Any]:
    """A JSON object of bounded size and depth, without doubled keys or NaN.

    Raises:
        RejectedError: `raw` is not that; `where` names it.
    """
    if len(raw) > MAX_DOCUMENT:
        raise RejectedError(f"{where} is larger than {MAX_DOCUMENT} bytes")
    try:
        tree = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_no_constant
        )
    except RecursionError:
        raise RejectedError(f"{where} is nested too deeply") from None
    except ValueError as error:  # also UnicodeDecodeError, JSONDecodeError, over-long numbers
        raise RejectedError(f"{where} is not sound JSON: {str(error)[:160]!a}") from None
    if not isinstance(tree, dict):
        raise RejectedError(f"{where} is not a JSON object")
    return tree


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key is written twice")
    return tree


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
