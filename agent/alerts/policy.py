"""What one configuration says about telling people: routes, muting, damping, fallbacks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.alerts.muting import Muting
from agent.alerts.routes import Routes
from agent.alerts.routing import Route
from agent.alerts.silences import Silences
from agent.config import Alerts
from agent.configrouting import Fallback, Flapping
from agent.errors import UsageError


@dataclass(frozen=True, slots=True)
class Policy:
    """All of it, checked."""

    severities: tuple[Route, ...]
    routes: Routes
    muting: Muting
    flapping: Flapping
    fallbacks: tuple[Fallback, ...]


def make_policy(
    config: Alerts, severities: Iterable[Route], environment: str, silences: Silences
) -> Policy:
    """
    Raises:
        UsageError: a matcher is none, or a name is no destination's.
    """
    severities = tuple(severities)
    names = [route.name for route in severities]
    for number, fallback in enumerate(config.fallbacks):
        for name in (fallback.destination, fallback.to):
            if name not in names:
                raise UsageError(
                    f"alerts.fallbacks[{number}]: {name!r} is no destination",
                    f"configured are: {', '.join(sorted(names)) or 'none'}",
                )
        if fallback.destination == fallback.to:
            raise UsageError(
                f"alerts.fallbacks[{number}]: {fallback.to!r} cannot stand in for itself",
                "name another destination",
            )
    return Policy(
        severities,
        Routes(config.route, severities, environment, config.repeat_interval),
        Muting(silences, config.inhibit, config.maintenance),
        config.flapping,
        config.fallbacks,
    )
