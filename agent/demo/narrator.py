"""How the story is told: aligned lines with measured times; colours on a terminal only."""

from __future__ import annotations

import os
import time
from typing import TextIO

_TITLE = 22
_CODES = {"good": "32", "bad": "31;1", "dim": "2", "bold": "1"}


def took(seconds: float | None) -> str:
    """A duration with a unit that suits it: `480 µs`, `12 ms`, `3.4 s`; empty for None."""
    if seconds is None:
        return ""
    if abs(seconds) < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if abs(seconds) < 1.0:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s"


class Narrator:
    """Writes the story to one stream, every line at once, with the time since the first."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = time.monotonic()
        self._colour = stream.isatty() and "NO_COLOR" not in os.environ

    @property
    def elapsed(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._began

    def line(self, text: str = "", paint: str = "") -> None:
        """One line as it is."""
        self._stream.write(self._painted(text, paint) + "\n")
        self._stream.flush()

    def fact(self, name: str, text: str) -> None:
        """One line of the opening: a name and what it is."""
        self.line(f"  {name:<9}{text}")

    def waiting(self, text: str) -> None:
        """What is being waited for now."""
        self.line(f"{self._stamp()}   … {text}", "dim")

    def step(self, title: str, text: str, seconds: float | None, look: str) -> None:
        """A step that happened: what, how long it took, and where to see it."""
        mark = self._painted("ok", "good")
        told = f"{text}  [{took(seconds)}]" if seconds is not None else text
        self.line(f"{self._stamp()}  {mark}  {self._painted(f'{title:<{_TITLE}}', 'bold')} {told}")
        if look:
            self.line(f"{'':{_TITLE + 15}}see {look}", "dim")

    def failed(self, title: str, text: str) -> None:
        """The step that did not happen."""
        self.line(f"{self._stamp()}  {self._painted('NO', 'bad')}  {title:<{_TITLE}} {text}")

    def _stamp(self) -> str:
        return f"{self.elapsed:7.1f} s"

    def _painted(self, text: str, paint: str) -> str:
        return f"\x1b[{_CODES[paint]}m{text}\x1b[0m" if self._colour and paint else text
