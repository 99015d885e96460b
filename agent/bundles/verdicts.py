"""What was decided about versions, beyond what the store says: quarantine, and a person's choice.

A version that was refused, or rolled back, is not tried again until its digest changes or a person
deploys it. A version that a person deployed, or went back to, stays until the channel asks for
something new. Both must hold for `init` in a new pod as well, which opens no database: so they are
one small JSON file, replaced durably, and not a table.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent import fs
from agent.bundles.errors import RolloutError
from agent.bundles.model import Desired
from agent.units import Digest, UnixTime, Version

FILE = "verdicts.json"
_KEPT = 200


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One content that must not go live by itself."""

    version: Version
    digest: Digest
    reason: str
    at: UnixTime

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "digest": self.digest,
            "reason": self.reason,
            "at": self.at,
        }


@dataclass(frozen=True, slots=True)
class _Known:
    quarantine: tuple[Quarantined, ...] = ()
    override: str | None = None


def key(desired: Desired | None) -> str:
    """What the channel asks for, as one comparable text."""
    return f"{desired.version} {desired.digest or '-'}" if desired else "nothing"


class Verdicts:
    """The file `verdicts.json` in the state folder. Safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()
        self._known = _load(self._path)

    @property
    def quarantine(self) -> tuple[Quarantined, ...]:
        """What is banned, newest first."""
        return self._known.quarantine

    def why_banned(self, digest: Digest | None) -> str | None:
        """Why content `digest` must not be tried; None when it may."""
        for item in self._known.quarantine:
            if item.digest == digest:
                return item.reason
        return None

    def ban(self, version: Version, digest: Digest, reason: str, at: UnixTime) -> None:
        """Do not try this content again by itself.

        Raises:
            RolloutError: it could not be written down; it is in force in this process all the same.
        """
        with self._lock:
            others = tuple(item for item in self._known.quarantine if item.digest != digest)
            item = Quarantined(version, digest, reason, at)
            self._put(replace(self._known, quarantine=(item, *others)[:_KEPT]))

    def lift(self, digest: Digest) -> bool:
        """A person says so: try it again. Whether it was banned; raises as `ban`."""
        with self._lock:
            left = tuple(item for item in self._known.quarantine if item.digest != digest)
            if len(left) == len(self._known.quarantine):
                return False
            self._put(replace(self._known, quarantine=left))
            return True

    def overridden(self, desired: Desired | None) -> bool:
        """Whether a person chose otherwise while the channel asked for exactly this."""
        return self._known.override == key(desired)

    def override(self, desired: Desired | None) -> None:
        """A person chose otherwise: leave the channel's present wish alone; raises as `ban`."""
        with self._lock:
            self._put(replace(self._known, override=key(desired)))

    def follow(self) -> None:
        """The channel is in charge again; raises as `ban`."""
        with self._lock:
            if self._known.override is not None:
                self._put(replace(self._known, override=None))

    def _put(self, known: _Known) -> None:
        self._known = known
        tree = {
            "quarantine": [item.as_dict() for item in known.quarantine],
            "override": known.override,
        }
        try:
            fs.write_durable(self._path, json.dumps(tree, indent=1).encode() + b"\n")
        except OSError as error:
            raise RolloutError(
                f"{self._path} cannot be written: {error.strerror}", "free space on its volume"
            ) from error


def _load(path: Path) -> _Known:
    """What the file says. A file that cannot be read is taken for empty: what was banned is then
    judged again, by the same checks that banned it."""
    try:
        tree = json.loads(path.read_bytes())
        items = tuple(
            Quarantined(
                Version(str(item["version"])),
                Digest(str(item["digest"])),
                str(item["reason"]),
                UnixTime(float(item["at"])),
            )
            for item in tree["quarantine"]
        )
        override = tree["override"]
        return _Known(items, None if override is None else str(override))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _Known()
