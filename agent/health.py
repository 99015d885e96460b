"""What is well and what is not, in words that a person on call can act on.

A job describes itself as a list of conditions; readiness, the status page and the agent's own
metrics are all read off that one list, so that they cannot disagree. Liveness is not here: it says
only that the loop turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent.errors import AgentError


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that can be right or wrong.

    `gates_ready` says whether the trader needs it: a condition that fails without gating turns the
    status page amber and leaves `/readyz` at 200.
    """

    name: str
    ok: bool
    reason: str
    remedy: str = ""
    gates_ready: bool = True

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ok": self.ok,
            "reason": self.reason,
            "remedy": self.remedy,
            "gates_ready": self.gates_ready,
        }


def ready(conditions: Iterable[Condition]) -> bool:
    """True when nothing that the trader needs is missing."""
    return all(condition.ok or not condition.gates_ready for condition in conditions)


class Job(Protocol):
    """One of the agent's three jobs, as the daemon and the face see it."""

    name: str

    async def run(self) -> None:
        """Do the job until cancelled. Anything raised counts as a crash and is restarted."""
        ...

    async def drain(self) -> None:
        """Finish what must not be lost; called once, after `run` was cancelled, at shutdown."""
        ...

    def conditions(self) -> Sequence[Condition]:
        """What is right and wrong now. Cheap: called on every probe."""
        ...

    def snapshot(self) -> Mapping[str, Any]:
        """The job's read model: JSON-able, without any secret value."""
        ...


def recorded(problem: AgentError | None) -> Condition:
    """Whether the audit log takes what is written to it; `problem` is the last refusal."""
    return Condition(
        "audit",
        ok=problem is None,
        reason=str(problem) if problem else "what the agent does is recorded",
        remedy=problem.remedy if problem else "",
        gates_ready=False,
    )
