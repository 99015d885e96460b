"""Who is told what: destinations by severity, the dedup key, and the notification itself. Pure.

A severity that some destination names goes there. A known one that none names goes nowhere, as
configured. An alert without a severity, or with one that is neither known nor named, is treated as
a warning: a misspelt label must not make an alert vanish. A resolve goes to those who were told
that the alert fires, whatever the routes say by then.

The dedup key is `jules-` and the SHA-256, in hex, of the sorted label set together with the
environment, the pod and the external labels: 70 characters, the same for every message about one
alert of one pod, so that one pod's resolve never closes another's incident.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agent.alerts.state import Alert, fingerprint
from agent.units import UnixTime

KNOWN = frozenset(("critical", "warning", "info", "none"))
"""Severities that may be left out of every route on purpose; `none` is a watchdog's."""
DEFAULT_SEVERITY = "warning"

Status = Literal["firing", "resolved"]


@dataclass(frozen=True, slots=True)
class Route:
    """A destination's name and the severities that it wants."""

    name: str
    severities: frozenset[str]


@dataclass(frozen=True, slots=True)
class Notification:
    """Everything that a message may say. JSON-able by `as_dict`; times are UNIX seconds.

    `value` is None where there was no measurement. `context` tells where and with what:
    environment, pod, bundle, previous_bundle, bundle_live_for.
    """

    status: Status
    name: str
    severity: str
    dedup_key: str
    value: float | None
    active_at: UnixTime
    fired_at: UnixTime
    resolved_at: UnixTime | None = None
    repeated: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)

    @property
    def critical(self) -> bool:
        """Whether it goes before the others and is never dropped."""
        return self.severity == "critical"

    @property
    def summary(self) -> str:
        """One line for a person: the rule's summary, else what fires and where."""
        told = self.annotations.get("summary") or self.annotations.get("message")
        if told:
            return told
        named = ", ".join(
            f"{key}={value}"
            for key, value in sorted(self.labels.items())
            if key not in ("alertname", "severity")
        )
        return f"{self.name} ({named})" if named else self.name

    def as_dict(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: dict(it) if isinstance(it, Mapping) else it for name, it in named.items()}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Notification:
        """The notification that `as_dict` wrote; fields of a later version are left out."""
        known = {name: tree[name] for name in cls.__dataclass_fields__ if name in tree}
        return cls(**known)


def destinations(labels: Mapping[str, str], routes: Iterable[Route]) -> tuple[str, ...]:
    """Names of the destinations for an alert with these labels."""
    routes = tuple(routes)
    severity = effective_severity(labels, routes)
    return tuple(route.name for route in routes if severity in route.severities)


def effective_severity(labels: Mapping[str, str], routes: Iterable[Route]) -> str:
    """The severity that the alert is treated as."""
    told = labels.get("severity", "").strip().lower()
    if told in KNOWN or any(told in route.severities for route in routes):
        return told
    return DEFAULT_SEVERITY


def dedup_key(
    labels: Mapping[str, str], environment: str, pod: str, external: Mapping[str, str]
) -> str:
    """The key under which a receiver joins all messages about one alert; 70 characters."""
    outer = {f"external {key}": value for key, value in external.items()}
    return "jules-" + fingerprint(
        {**outer, **labels, "agent environment": environment, "agent pod": pod}
    )


def notify(
    alert: Alert,
    status: Status,
    *,
    severity: str,
    key: str,
    at: UnixTime,
    context: Mapping[str, str],
    external: Mapping[str, str],
    repeated: bool = False,
) -> Notification:
    """What is told about `alert` now. External labels never hide the alert's own."""
    return Notification(
        status=status,
        name=alert.name,
        severity=severity,
        dedup_key=key,
        value=alert.value,
        active_at=alert.active_at,
        fired_at=alert.fired_at if alert.fired_at is not None else at,
        resolved_at=at if status == "resolved" else None,
        repeated=repeated,
        labels={**external, **alert.labels},
        annotations=dict(alert.annotations),
        context=dict(context),
    )


def noted(told: Notification, note: str) -> Notification:
    """`told` with a note before its headline."""
    return replace(told, annotations={**told.annotations, "summary": f"[{note}] {told.summary}"})
