"""How new the local store must be: the highest generation that this machine has read or written.

A whole older copy of the store is sealed as well as the newest, so nothing inside it can tell. This
file in the agent's state folder can: for each store the highest generation seen, and which seal
that generation had, so that a copy which went its own way is told apart too. It guards against a
restored backup and a swapped file, not against one who can write the state folder as well.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import fs
from agent.secrets.errors import RolledBackError

NAME = "local-store.json"


class HighWater:
    """The mark of the store at `store`, kept in the folder `state`."""

    def __init__(self, store: Path, state: Path | None) -> None:
        """Without a state folder there is no mark: everything is new enough."""
        self._path = state / NAME if state is not None and state.is_dir() else None
        self._key = hashlib.sha256(str(store).encode()).hexdigest()[:16]

    def generation(self) -> int:
        """The highest generation seen; 0 for none."""
        return self._read()[0]

    def check(self, generation: int, seal: dict[str, str]) -> None:
        """Note a generation that was read.

        Raises:
            RolledBackError: it is older than one seen, or another of the same number.
        """
        highest, seen = self._read()
        mine = _about(seal)
        if generation < highest or (generation == highest and seen != mine):
            raise RolledBackError(
                f"the store is of generation {generation}"
                + (
                    f" and this machine has seen {highest}"
                    if generation < highest
                    else ", and not the one of that number that this machine has seen"
                ),
                "bring back the newest file; if an older one was restored on purpose: "
                "jules-agent secrets accept-older",
            )
        if generation > highest:
            self._write(generation, mine)

    def accept(self, generation: int, seal: dict[str, str]) -> None:
        """Take this generation for the newest, whatever was seen before."""
        self._write(generation, _about(seal))

    def _all(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            tree = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return tree if isinstance(tree, dict) else {}

    def _read(self) -> tuple[int, str]:
        told = self._all().get(self._key) or {}
        try:
            return int(told["generation"]), str(told["seal"])
        except (KeyError, TypeError, ValueError):
            return 0, ""

    def _write(self, generation: int, seal: str) -> None:
        if self._path is None:
            return
        tree = {**self._all(), self._key: {"generation": generation, "seal": seal}}
        with suppress(OSError):  # a full or read-only volume must not keep a secret from the trader
            fs.write_durable(self._path, json.dumps(tree, sort_keys=True).encode() + b"\n", 0o600)


def _about(seal: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(seal, sort_keys=True).encode()).hexdigest()[:32]
