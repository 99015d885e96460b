"""The decision over a new version while it bakes: go on, keep it, or put the old one back. Pure.

- a gate that is broken (any result, or a value out of its bounds or not a number) is a breach, at
  once
- a gate without samples, or in error, is blind; blind for longer than `stale_after` is a breach,
  and so are samples that have got older than that: what cannot be seen is not well
- the trader unwell `attempts` times in a row is a breach
- when the time is over the version is kept, but not while a gate is blind
A gate that was broken before the flip already, and was flipped over by force, counts from the first
time that it is seen whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from agent.bundles.gates import Look, stale_after
from agent.configrollouts import Bake
from agent.units import Monotonic, Seconds


class Verdict(Enum):
    """What a look at the bake says."""

    GOING_ON = "going on"
    PASSED = "passed"
    BREACH = "breach"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and, for a breach, its reason."""

    verdict: Verdict
    reason: str = ""


class BakeWatch:
    """One bake. Fed with looks; remembers only since when each gate has been blind."""

    def __init__(
        self,
        config: Bake,
        started: Monotonic,
        *,
        attempts: int,
        forgiven: frozenset[str] = frozenset(),
        excused: frozenset[str] = frozenset(),
    ) -> None:
        """`forgiven` were broken before the flip already; `excused` have no reading from before it,
        by force."""
        self.config = config
        self.ends = Monotonic(started + config.duration)
        self._attempts = attempts
        self._forgiven = set(forgiven)
        self._excused = excused
        self._blind_since: dict[str, Monotonic] = {}

    def left(self, now: Monotonic) -> Seconds:
        """How much longer the bake is meant to take."""
        return Seconds(max(0.0, self.ends - now))

    def feed(
        self, now: Monotonic, looks: Sequence[Look], *, unwell: int = 0, why_unwell: str = ""
    ) -> Judgement:
        """Judge what is seen now.

        Args:
            now: when the looks were taken.
            looks: every gate, looked at.
            unwell: how often in a row the trader has been unwell up to now.
            why_unwell: what it said last.
        """
        limit = stale_after(self.config)
        blind = False
        for item in looks:
            why = item.blind(limit) or self._no_baseline(item)
            if why is None:
                self._blind_since.pop(item.name, None)
                broken = self._broken(item)
                if broken is not None:
                    return Judgement(Verdict.BREACH, broken)
                continue
            blind = True
            since = self._blind_since.setdefault(item.name, now)
            too_old = item.error is None and item.age is not None and item.age > limit
            if too_old or now - since > limit:
                return Judgement(Verdict.BREACH, f"{item.name} cannot be judged: {why}")
        if unwell >= self._attempts:
            reason = f"the trader is unwell, {unwell} times in a row: {why_unwell}"
            return Judgement(Verdict.BREACH, reason)
        if now >= self.ends and not blind and not unwell:
            return Judgement(Verdict.PASSED)
        return Judgement(Verdict.GOING_ON)

    def _no_baseline(self, item: Look) -> str | None:
        if item.gate.relative and item.before is None and item.name not in self._excused:
            return "there is no reading from before the flip"
        return None

    def _broken(self, item: Look) -> str | None:
        broken = item.breach()
        if item.name not in self._forgiven:
            return broken
        if broken is None:
            self._forgiven.discard(item.name)
        return None
