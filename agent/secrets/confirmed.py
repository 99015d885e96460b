"""What was last confirmed of the live generation: `..seen` beside it.

A generation whose content has not changed is not flipped, so its index tells when each file was
first fetched. This small file tells when each was fetched last, and for which configuration: so
that a pod which starts again knows how old the files in its directory really are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent import fs

SEEN = "..seen"


@dataclass(frozen=True, slots=True)
class Seen:
    """The generation meant, a mark of the configuration, and each path's last fetch (Unix time)."""

    generation: int
    spec: str
    fetched_at: Mapping[str, float]


def write(directory: Path, seen: Seen) -> None:
    """Replace the file, unless it says the same already; raises OSError."""
    if read(directory) == seen:
        return
    told = {
        "generation": seen.generation,
        "spec": seen.spec,
        "fetched_at": dict(seen.fetched_at),
    }
    temp = directory / fs.temp_name()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temp, flags, 0o600)
    try:
        try:
            fs.write_all(fd, json.dumps(told).encode())
        finally:
            os.close(fd)
        os.replace(temp, directory / SEEN)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temp)
        raise


def read(directory: Path) -> Seen | None:
    """What the file says; None where there is none that can be read."""
    try:
        fd = os.open(directory / SEEN, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            told = json.loads(file.read())
        times = {str(path): float(at) for path, at in told["fetched_at"].items()}
        return Seen(int(told["generation"]), str(told["spec"]), times)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
