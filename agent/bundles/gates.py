"""What must be well outside the bundle before `current` moves.

Each question is a function that answers with a reason, or None for "go on"; the rollout asks them
in the order of their price. A gate says "not now", never "never": the version is tried again later.
A metric that cannot be judged does not pass: the bake could not judge it either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent import fs
from agent.config import Bake, BakeGate, Limits
from agent.errors import AgentError
from agent.gates import MetricGate, Reading, Result, SecretGate
from agent.units import Seconds

_SHORTEST_BLIND = 5.0
_INTERVALS_BLIND = 5


@dataclass(frozen=True, slots=True)
class Look:
    """One gate, looked at once. `error` or no `age`: it could not be judged."""

    name: str
    expr: str
    results: tuple[Result, ...] = ()
    age: Seconds | None = None
    error: str | None = None

    def blind(self, stale_after: Seconds) -> str | None:
        """Why this look says nothing; None when it can be judged."""
        if self.error is not None:
            return self.error
        if self.age is None:
            return "no samples yet"
        if self.age > stale_after:
            return f"the newest samples are {self.age:.1f} s old"
        return None

    def breach(self) -> str | None:
        """What broke the gate; None when the condition holds nowhere."""
        if not self.results:
            return None
        more = f" and {len(self.results) - 1} more" if len(self.results) > 1 else ""
        return f"{self.name}: {told(self.results[0])}{more}"


def told(result: Result) -> str:
    """A result as one reads it in Prometheus: an alert by its name, anything else in full."""
    labels = dict(result.labels)
    name = labels.pop("__name__", "")
    alert = labels.get("alertname")
    if alert is not None:
        return str(alert)
    inner = ", ".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return (
        f"{name}{{{inner}}} = {result.value:g}"
        if inner
        else f"{name or 'value'} = {result.value:g}"
    )


def stale_after(bake: Bake) -> Seconds:
    """From what age on samples say nothing, and how long a gate may be without any."""
    return Seconds(max(_SHORTEST_BLIND, _INTERVALS_BLIND * bake.interval))


def look(gate: BakeGate, metrics: MetricGate) -> Look:
    """Ask one gate now; an expression that cannot be evaluated is an answer too."""
    try:
        reading: Reading = metrics.read(gate.expr)
    except AgentError as error:
        return Look(gate.name, gate.expr, error=str(error))
    return Look(gate.name, gate.expr, reading.results, reading.samples_age)


def look_all(bake: Bake, metrics: MetricGate | None) -> list[Look]:
    """Every gate of the bake, now; none where the alerts job is off."""
    return [] if metrics is None else [look(gate, metrics) for gate in bake.gates]


def disk(root: Path, limits: Limits) -> str | None:
    """Why there is too little disk for a flip and what is written about it."""
    free = fs.free_bytes(root)
    if free < limits.headroom:
        return f"disk: {free} bytes are free below {root}, {limits.headroom} must stay free"
    return None


def secrets(gate: SecretGate | None) -> str | None:
    """Why the trader's secrets are not fresh enough; None too where the secrets job is off."""
    reason = gate.why_not() if gate is not None else None
    return f"secrets: {reason}" if reason else None


def unjudged(looks: Sequence[Look], bake: Bake) -> str | None:
    """Which metric gate cannot be judged now, and why."""
    for item in looks:
        why = item.blind(stale_after(bake))
        if why is not None:
            return f"metrics: {item.name} cannot be judged: {why}"
    return None


def breached(looks: Sequence[Look]) -> str | None:
    """Which metric gate is broken already, before anything was flipped."""
    for item in looks:
        broken = item.breach()
        if broken is not None:
            return f"metrics: broken before the flip already: {broken}"
    return None
