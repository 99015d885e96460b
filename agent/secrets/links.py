"""The stable links of a secrets directory: `NAME -> ..data/NAME` for each first part of a path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from agent import fs

DATA = "..data"


def entries(paths: Iterable[str]) -> set[str]:
    """First parts of the paths: the names in the directory itself."""
    return {path.split("/", 1)[0] for path in paths}


def is_ours(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of the directory is a link that we make."""
    return entry.is_symlink() and os.readlink(entry.path) == f"{DATA}/{entry.name}"


def add(directory: Path, paths: Iterable[str]) -> set[str]:
    """Make each entry's stable link, in place of whatever stands there; `link` if one was missing
    or bent."""
    mended = set()
    for name in sorted(entries(paths)):
        place = directory / name
        if fs.read_link(place) == f"{DATA}/{name}":
            continue
        mended.add("link")
        if place.is_dir() and not place.is_symlink():
            aside = directory / fs.temp_name()
            os.rename(place, aside)  # a folder in a link's place hides the live one
            shutil.rmtree(aside)
        fs.replace_link(place, f"{DATA}/{name}", durable=False)
    return mended


def drop(directory: Path, paths: Iterable[str]) -> set[str]:
    """Remove the links of entries that are gone, and stray ones: links only, never a file."""
    wanted = entries(paths)
    with os.scandir(directory) as found:
        stray = [
            entry.path
            for entry in found
            if entry.is_symlink() and not entry.name.startswith("..")
            if entry.name not in wanted
        ]
    for path in stray:
        os.unlink(path)
    return {"link"} if stray else set()
