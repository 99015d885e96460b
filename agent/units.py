"""Types that say what a number or a string is, so that a signature can be read alone.

They cost nothing at run time (`NewType`); mypy keeps a wall-clock time from being passed where a
duration is meant, and a digest from being passed where a version is.
"""

from __future__ import annotations

from pathlib import Path
from typing import NewType

Seconds = NewType("Seconds", float)
"""A duration, in seconds. Measured on the monotonic clock, never on the wall."""

UnixTime = NewType("UnixTime", float)
"""A point in time: seconds since 1970-01-01T00:00:00Z, by the wall clock."""

Monotonic = NewType("Monotonic", float)
"""A reading of the monotonic clock: only differences mean anything."""

Bytes = NewType("Bytes", int)
"""A size, in bytes."""

AbsolutePath = NewType("AbsolutePath", Path)
"""A path that starts at the root: made by `absolute()` and nowhere else."""

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits."""

Version = NewType("Version", str)
"""The name of a bundle version, such as `v2025-07-08`: one safe path component."""

SecretName = NewType("SecretName", str)
"""The name of a secret, such as `database/main`: safe path components joined by `/`."""


def absolute(path: str | Path) -> AbsolutePath:
    """The absolute form of `path`, `~` expanded, links left as they are."""
    return AbsolutePath(Path(path).expanduser().absolute())
