"""What must be well outside the bundle before `current` moves.

Each question is a function that answers with a reason, or None for "go on"; the rollout asks them
in the order of their price. A gate says "not now", never "never": the version is tried again later.
A metric that cannot be judged does not pass: the bake could not judge it either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import fs
from agent.bundles.freeze import frozen
from agent.bundles.orders import Orders
from agent.configpod import Limits
from agent.configrollouts import Bake, BakeGate, FreezeWindow
from agent.errors import AgentError
from agent.gates import MetricGate, Reading, Result, SecretGate
from agent.units import Seconds, UnixTime

_SHORTEST_BLIND = 5.0
_INTERVALS_BLIND = 5


@dataclass(frozen=True, slots=True)
class Look:
    """One gate, looked at once. `error` or no `age`: it could not be judged."""

    gate: BakeGate
    results: tuple[Result, ...] = ()
    age: Seconds | None = None
    error: str | None = None
    before: float | None = None
    """The reading before the flip, for a gate that compares with it."""

    @property
    def name(self) -> str:
        return self.gate.name

    @property
    def value(self) -> float | None:
        """The one that decides: the smallest for a gate with only a lower bound, else the largest;
        not a number, if any is none."""
        values = [item.value for item in self.results]
        if not values:
            return None
        if any(math.isnan(value) for value in values):
            return math.nan
        only_min = self.gate.min is not None and self.gate.max is None and not self.gate.relative
        return min(values) if only_min else max(values)

    def blind(self, stale_after: Seconds) -> str | None:
        """Why this look says nothing; None when it can be judged."""
        if self.error is not None:
            return self.error
        if self.age is None:
            return "no samples yet"
        if self.age > stale_after:
            return f"the newest samples are {self.age:.1f} s old"
        if self.gate.judges_value and not self.results:
            return "the expression has no result"
        return None

    def breach(self) -> str | None:
        """What broke the gate; None when it is kept."""
        if not self.results:
            return None
        if self.gate.judges_value:
            return self._out_of_bounds()
        more = f" and {len(self.results) - 1} more" if len(self.results) > 1 else ""
        return f"{self.name}: {told(self.results[0])}{more}"

    def _out_of_bounds(self) -> str | None:
        value, gate, before = self.value, self.gate, self.before
        if value is None:
            return None
        if math.isnan(value):
            return f"{self.name}: the value is not a number"
        lowest = min(item.value for item in self.results)
        if gate.max is not None and value > gate.max:
            return f"{self.name}: {value:g} is above {gate.max:g}"
        if gate.min is not None and lowest < gate.min:
            return f"{self.name}: {lowest:g} is below {gate.min:g}"
        if before is None:
            return None
        if gate.max_increase is not None and value > before + gate.max_increase:
            by = f"more than {gate.max_increase:g} above the {before:g} from before the flip"
            return f"{self.name}: {value:g} is {by}"
        if gate.max_ratio is not None and value > before * gate.max_ratio:
            by = f"more than {gate.max_ratio:g} times the {before:g} from before the flip"
            return f"{self.name}: {value:g} is {by}"
        return None

    def as_dict(self) -> dict[str, Any]:
        """For the history: what was seen, JSON-able."""
        value = self.value
        return {
            "gate": self.name,
            "value": None if value is None else shown(value),
            "before": None if self.before is None else shown(self.before),
            "samples_age": self.age,
            "breach": self.breach(),
            "error": self.error,
        }


def shown(value: float) -> float | str:
    """A value as JSON can hold it: what is no finite number is written as Prometheus writes it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"


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


def look(gate: BakeGate, metrics: MetricGate, before: float | None = None) -> Look:
    """Ask one gate now; an expression that cannot be evaluated is an answer too."""
    try:
        reading: Reading = metrics.read(gate.expr)
    except AgentError as error:
        return Look(gate, error=str(error))
    return Look(gate, reading.results, reading.samples_age, before=before)


def look_all(
    bake: Bake, metrics: MetricGate | None, before: Mapping[str, float] | None = None
) -> list[Look]:
    """Every gate of the bake, now; none where the alerts job is off. `before` holds, by gate, the
    readings from before the flip."""
    if metrics is None:
        return []
    return [look(gate, metrics, (before or {}).get(gate.name)) for gate in bake.gates]


def baseline(looks: Sequence[Look]) -> dict[str, float]:
    """What the gates that compare with it read before the flip."""
    return {
        item.name: item.value
        for item in looks
        if item.gate.relative and item.value is not None and math.isfinite(item.value)
    }


def forbidden(
    orders: Orders, windows: Sequence[FreezeWindow], now: UnixTime, *, hotfix: bool
) -> str | None:
    """Why nothing may go live now: a person's hold, or a freeze window without a hotfix."""
    hold = orders.hold(now)
    if hold is not None:
        return hold.told()
    window = None if hotfix or not windows else frozen(windows, now)
    if window is not None:
        return f"frozen, {window.told}"
    return None


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
