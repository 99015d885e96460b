"""What one job may ask of another, without knowing it: handed over by the daemon.

A rollout asks whether the trader's secrets are fresh (`SecretGate`) and what a PromQL condition
says right now (`MetricGate`), and has people told when it goes back (`RolloutTold`). The answers
are plain data, so that the asking side can decide alone and fail closed: no fresh samples is an
answer too, and not a good one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.units import Seconds


@dataclass(frozen=True, slots=True)
class Result:
    """One element of a condition's result: its labels (the metric's name is `__name__`), value."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a condition says now. Any result means that the condition holds.

    `samples_age` is the age of the newest scrape that worked, over all targets the older one; None
    when some target has never been scraped.
    """

    results: tuple[Result, ...]
    samples_age: Seconds | None


class MetricGate(Protocol):
    """The alerts job, as a rollout sees it."""

    def validate(self, expr: str) -> None:
        """Check that `expr` can be evaluated here.

        Raises:
            AgentError: what of it cannot, with its position.
        """
        ...

    def read(self, expr: str) -> Reading:
        """Evaluate `expr` at the newest samples. Cheap; called on the loop.

        Raises:
            AgentError: it cannot be evaluated.
        """
        ...


class SecretGate(Protocol):
    """The secrets job, as a rollout sees it."""

    def why_not(self) -> str | None:
        """Why the trader's secrets are not fresh enough for a flip; None when they are."""
        ...


class RolloutTold(Protocol):
    """The alerts job, as a rollout sees it when there is something that people must hear of."""

    def rolled_back(self, version: str, to: str | None, reason: str, actor: str) -> None:
        """`version` was live and is no longer; `to` is live instead. Never raises, never waits."""
        ...

    def went_live(self, version: str) -> None:
        """A version was kept: what was told before is over."""
        ...
