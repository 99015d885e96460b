"""The words of this job as plain data: manifest, channel document, rollout and its states."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from agent.units import Bytes, Digest, Seconds, UnixTime, Version

REQUIRED_FILES = ("policy.pt", "value_function.pt", "config.yaml", "metadata.json")
MANIFEST = "manifest.json"
SIGNATURES = "manifest.sig"


class State(Enum):
    """Where a rollout stands; the values are the ones that callers of the library know."""

    PENDING = "pending"
    VALIDATING = "validating"
    DEPLOYING = "deploying"
    ACTIVE = "active"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.VALIDATING, State.FAILED}),
    State.VALIDATING: frozenset({State.DEPLOYING, State.FAILED}),
    State.DEPLOYING: frozenset({State.ACTIVE, State.FAILED, State.ROLLED_BACK}),
    State.ACTIVE: frozenset({State.ROLLED_BACK}),
    State.FAILED: frozenset(),
    State.ROLLED_BACK: frozenset(),
}
"""Every change of state that may be recorded. FAILED: `current` never moved; ROLLED_BACK: it did
and was put back."""


def digest_of(raw: bytes) -> Digest:
    """The digest of a document's bytes."""
    return Digest("sha256:" + hashlib.sha256(raw).hexdigest())


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a bundle: its path below the bundle (`/`-joined), size and digest."""

    path: str
    size: Bytes
    digest: Digest


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a version may go live. `sequence` only grows from one published version to the
    next; after `expires` it is no longer brought; `agent` is the oldest release that will do."""

    sequence: int | None = None
    expires: UnixTime | None = None
    agent: str | None = None


NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version consists of. `raw` is the document's exact bytes, which a signature covers."""

    version: Version
    files: tuple[FileEntry, ...]
    raw: bytes = field(repr=False)
    terms: Terms = NO_TERMS

    @property
    def digest(self) -> Digest:
        """Digest of the document, which is the identity of the version's content."""
        return digest_of(self.raw)

    @property
    def size(self) -> Bytes:
        """Bytes of all files together."""
        return Bytes(sum(entry.size for entry in self.files))


@dataclass(frozen=True, slots=True)
class WayBack:
    """A signed leave to go back from sequence `since` to what the channel names, until a time."""

    since: int
    until: UnixTime
    signatures: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Desired:
    """What a channel document asks for. `digest` is the manifest's, where the document names it."""

    version: Version
    digest: Digest | None = None
    way_back: WayBack | None = None


@dataclass(slots=True)
class Step:
    """One step of a rollout: `copy`, `validate`, `gates`, `flip`, `on_flip`, `verify`, `bake`,
    `rollback`, `told_back`."""

    step: str
    seconds: Seconds | None = None
    outcome: str = "running"
    detail: str = ""
    values: list[dict[str, Any]] = field(default_factory=list)
    """What the metric gates read when the step ended: the values that decided."""

    def as_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "step": self.step,
            "seconds": self.seconds,
            "outcome": self.outcome,
            "detail": self.detail,
        }
        return {**told, "values": self.values} if self.values else told


@dataclass(slots=True)
class Rollout:
    """One attempt to make a version live, or one way back."""

    id: int
    version: Version
    state: State
    from_version: Version | None
    actor: str
    started_at: UnixTime
    ended_at: UnixTime | None = None
    reason: str | None = None
    steps: list[Step] = field(default_factory=list)
    digest: Digest | None = None
    """The manifest's, as soon as it is known."""
    why: str | None = None
    """Why it was asked for; `reason` is why it ended so."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "version": self.version,
            "state": self.state.name,
            "from_version": self.from_version,
            "actor": self.actor,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "reason": self.reason,
            "steps": [step.as_dict() for step in self.steps],
            "digest": self.digest,
            "why": self.why,
        }
