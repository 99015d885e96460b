"""One alert as the trading system's earlier scripts build it, and as our notifiers take it."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from agent.alerts.routing import Notification
from agent.alerts.state import fingerprint
from agent.units import UnixTime

_MEASURED = frozenset(
    (
        *("latency_us", "threshold_us", "error_count", "trip_count"),
        *("current_value", "limit_value", "breach_percentage"),
    )
)
"""Labels that carry a measured value: shown, but no part of an alert's identity."""


class AlertSeverity(Enum):
    """Alert severity levels."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class AlertStatus(Enum):
    """Alert status."""

    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass
class Alert:
    """One alert as the scripts build it. `timestamp` is UNIX seconds."""

    alert_name: str
    severity: AlertSeverity
    status: AlertStatus
    message: str
    description: str
    service: str
    team: str
    timestamp: float
    labels: dict[str, str]
    annotations: dict[str, str]
    runbook_url: str | None = None
    dashboard_url: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **asdict(self),
            "severity": self.severity.value,
            "status": self.status.value,
            "timestamp_iso": datetime.fromtimestamp(self.timestamp, UTC).isoformat(),
        }

    @property
    def dedup_key(self) -> str:
        """The same for every message about this alert, whatever it measures by now."""
        identity = {key: value for key, value in self.labels.items() if key not in _MEASURED}
        return "jules-" + fingerprint(
            {**identity, "alertname": self.alert_name, "service": self.service}
        )


def as_notification(alert: Alert, now: UnixTime) -> Notification:
    """The alert as every notifier takes it."""
    at = UnixTime(alert.timestamp)
    annotations = {
        **alert.annotations,
        "summary": alert.message,
        "description": alert.description,
    }
    if alert.runbook_url:
        annotations["runbook_url"] = alert.runbook_url
    if alert.dashboard_url:
        annotations["dashboard_url"] = alert.dashboard_url
    context = {"pod": os.environ.get("POD_NAME") or socket.gethostname()}
    if os.environ.get("ENVIRONMENT"):
        context["environment"] = os.environ["ENVIRONMENT"]
    return Notification(
        status=alert.status.value,
        name=alert.alert_name,
        severity=alert.severity.value,
        dedup_key=alert.dedup_key,
        value=None,
        active_at=at,
        fired_at=at,
        resolved_at=now if alert.status is AlertStatus.RESOLVED else None,
        labels={
            **alert.labels,
            "alertname": alert.alert_name,
            "service": alert.service,
            "team": alert.team,
        },
        annotations=annotations,
        context=context,
    )
