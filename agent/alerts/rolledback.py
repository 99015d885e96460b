"""Tell people that a bundle was rolled back: which version left, which one is live, and why.

The bundles job knows no alerts; the daemon hands it this as its `RolloutTold`. The alert goes the
way of every other (severity's destinations, outbox, redaction, deduplication), queued with the next
tick. It is resolved when a version has been kept after it, or by a restart of the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.alerts.judge import Verdict
from agent.alerts.state import Alert, Change, Transition, fingerprint
from agent.clock import Clock

if TYPE_CHECKING:
    from agent.alerts.engine import AlertsJob

ALERT = "BundleRolledBack"
_RULE = f"agent\nbundles\n{ALERT}\n1"


class RolledBack:
    """A `RolloutTold` over the alerts job. Called on the loop."""

    def __init__(self, job: AlertsJob, clock: Clock) -> None:
        self._job = job
        self._clock = clock
        self._told: Alert | None = None

    def rolled_back(self, version: str, to: str | None, reason: str, actor: str) -> None:
        """`version` was live and is no longer; `to` is live instead."""
        self._end()
        now = self._clock.now()
        labels = {"alertname": ALERT, "severity": "warning", "version": version, "to": to or "none"}
        annotations = {
            "summary": f"Model bundle {version} was rolled back; {to or 'nothing'} is live",
            "description": f"Asked for by {actor}. {reason}",
        }
        self._told = Alert(
            fingerprint(labels), labels, annotations, 1.0, "firing", now, fired_at=now
        )
        self._put("firing", self._told)

    def went_live(self, version: str) -> None:
        """A version was kept: what was told before is over."""
        self._end()

    def _end(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            self._put("resolved", told)

    def _put(self, change: Change, alert: Alert) -> None:
        self._job.announce(Verdict(_RULE, Transition(change, alert, self._clock.now())))
