"""A progress bar on a terminal; nothing at all in a pipe, or beside --json."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

_WIDTH = 30


def bar(arguments: argparse.Namespace, what: str) -> Callable[[int, int], None]:
    """Something to tell of bytes done and bytes in all."""
    if arguments.json or not sys.stderr.isatty():
        return lambda _done, _whole: None

    def draw(done: int, whole: int) -> None:
        full = _WIDTH * done // whole if whole else _WIDTH
        shown = f"\r{what} [{'#' * full}{'.' * (_WIDTH - full)}] {_size(done)} of {_size(whole)}"
        sys.stderr.write(shown + ("\n" if done >= whole else ""))
        sys.stderr.flush()

    return draw


def _size(count: int) -> str:
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
