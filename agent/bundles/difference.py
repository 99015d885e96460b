"""What differs between two versions that are here, by their manifests; small texts line by line."""

from __future__ import annotations

import difflib
from typing import Any

from agent.bundles.layout import Layout
from agent.bundles.model import FileEntry
from agent.units import Version

_TEXTS = ("config.yaml", "metadata.json", "README.md")
_LARGEST = 256 * 1024


def difference(layout: Layout, one: Version, two: Version) -> dict[str, Any]:
    """JSON-able: files that were added, removed or changed, and the texts among them.

    Raises:
        RejectedError: one of them is not complete here.
    """
    before = {entry.path: entry for entry in layout.require(one).files}
    after = {entry.path: entry for entry in layout.require(two).files}
    files = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is not None and new is not None and old.digest == new.digest:
            continue
        change = "added" if old is None else "removed" if new is None else "changed"
        files.append({"change": change, "path": path, "before": _size(old), "after": _size(new)})
    texts = {
        item["path"]: _lines(layout, one, two, str(item["path"]))
        for item in files
        if item["change"] == "changed" and item["path"] in _TEXTS
    }
    same = sum(
        entry.size
        for path, entry in after.items()
        if path in before and before[path].digest == entry.digest
    )
    return {"from": one, "to": two, "files": files, "same_bytes": same, "texts": texts}


def lines(told: dict[str, Any]) -> list[str]:
    """The texts, as `diff -u` shows them."""
    return ["\n".join(text) for text in told["texts"].values() if text]


def _size(entry: FileEntry | None) -> int | None:
    return None if entry is None else entry.size


def _lines(layout: Layout, one: Version, two: Version, path: str) -> list[str]:
    texts = []
    for version in (one, two):
        with open(layout.folder(version) / path, "rb") as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            return []
        texts.append(raw.decode(errors="replace").splitlines())
    before, after = texts
    found = difflib.unified_diff(before, after, f"{one}/{path}", f"{two}/{path}", n=1, lineterm="")
    return ["".join(c if c.isprintable() or c == "\t" else "?" for c in line) for line in found]
