"""The agent's own log as a destination: one line a notification, for a collector to pick up."""

from __future__ import annotations

from agent.alerts.notifiers.base import Rate
from agent.alerts.routing import Notification, Route
from agent.alerts.storm import Traits
from agent.confignotify import LogDestination
from agent.telemetry.logs import get_logger
from agent.units import Seconds, UnixTime

_log = get_logger(__name__)


class LogNotifier:
    """Writes; cannot fail."""

    name = "log"
    rate = Rate(per_second=1000.0, burst=1000)
    traits = Traits(together=False)
    timeout = Seconds(5.0)
    credential = None

    def __init__(self, config: LogDestination) -> None:
        self.route = Route(self.name, frozenset(config.severities))

    def send(self, notification: Notification, now: UnixTime) -> None:
        """One line: an error for what is critical and fires, a warning or info for the rest."""
        n = notification
        fires = n.status == "firing"
        write = _log.error if fires and n.critical else _log.warning if fires else _log.info
        write(
            f"notification: {n.summary}",
            alert=n.name,
            status=n.status,
            severity=n.severity,
            value=n.value,
            labels=dict(n.labels),
            dedup_key=n.dedup_key,
            repeated=n.repeated,
        )

    def close(self) -> None:
        """Nothing is held."""
