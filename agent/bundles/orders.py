"""A person's standing orders: a hold on what is live, and versions that are never collected.

They hold for `init` in a new pod as well, and across every restart: one small JSON file, replaced
durably. Unlike `verdicts`, a file that cannot be read counts as a hold: whoever placed one must be
able to rely on it, and saying "resume" writes the file anew.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agent import fs
from agent.bundles.errors import RolloutError
from agent.units import UnixTime, Version

FILE = "orders.json"


@dataclass(frozen=True, slots=True)
class Hold:
    """What is live stays live; only a way back is open."""

    reason: str
    by: str
    at: UnixTime
    until: UnixTime | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def told(self) -> str:
        """In words."""
        return f"held by {self.by}: {self.reason}"


@dataclass(frozen=True, slots=True)
class _Known:
    hold: Hold | None = None
    pins: tuple[Version, ...] = ()


class Orders:
    """The file `orders.json` in the state folder. Safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()
        self._known = _load(self._path)

    def hold(self, now: UnixTime) -> Hold | None:
        """The hold that is in force."""
        hold = self._known.hold
        if hold is not None and hold.until is not None and now >= hold.until:
            return None
        return hold

    @property
    def pins(self) -> tuple[Version, ...]:
        """Versions that stay on disk whatever else is collected."""
        return self._known.pins

    def place(self, hold: Hold) -> None:
        """Hold what is live.

        Raises:
            RolloutError: it could not be written down; it is in force in this process all the same.
        """
        with self._lock:
            self._put(replace(self._known, hold=hold))

    def resume(self) -> Hold | None:
        """End the hold and return it.

        Raises:
            RolloutError: it could not be written down, so the hold stays.
        """
        with self._lock:
            before = self._known
            if before.hold is None:
                return None
            try:
                self._put(replace(before, hold=None))
            except RolloutError:
                self._known = before
                raise
            return before.hold

    def pin(self, version: Version, *, pinned: bool) -> None:
        """Keep `version` on disk, or no longer; raises RolloutError."""
        with self._lock:
            others = tuple(item for item in self._known.pins if item != version)
            self._put(replace(self._known, pins=(*others, version) if pinned else others))

    def _put(self, known: _Known) -> None:
        self._known = known
        tree = {"hold": known.hold.as_dict() if known.hold else None, "pins": list(known.pins)}
        try:
            fs.write_durable(self._path, json.dumps(tree, indent=1).encode() + b"\n")
        except OSError as error:
            raise RolloutError(
                f"{self._path} cannot be written: {error.strerror}", "free space on its volume"
            ) from error


def _load(path: Path) -> _Known:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return _Known()
    except OSError as error:
        return _unreadable(path, str(error.strerror))
    try:
        tree = json.loads(raw)
        told = tree["hold"]
        hold = None
        if told is not None:
            until = None if told["until"] is None else UnixTime(float(told["until"]))
            hold = Hold(str(told["reason"]), str(told["by"]), UnixTime(float(told["at"])), until)
        return _Known(hold, tuple(Version(str(item)) for item in tree["pins"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return _unreadable(path, "it is not what the agent writes")


def _unreadable(path: Path, why: str) -> _Known:
    reason = f"{path.name} cannot be read ({why}), and may hold an order"
    return _Known(Hold(reason, "agent", UnixTime(0.0)))
