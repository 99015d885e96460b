"""The trading system's own calls, as its scripts write them, over our notifiers.

    alert_manager = create_alert_manager()
    await alert_manager.send_critical_latency_alert("risk_enforcement", 35.5)

Each call answers by destination whether it has the alert, or `{"deduplicated": True}` when all of
them had it within five minutes. Only what a destination has accepted is suppressed, and one alert
is told from another by its labels too: breaker B is not hidden by breaker A, while a value that
changes (`latency_us`, `current_value`, …) makes no new alert. Destinations are spoken to at once.
Given a state folder, each alert is on disk before it is sent, and what was not accepted goes with a
later call, also of a process that is started again; given a route, the tree decides who is told.
Code that can should let the agent judge its metrics instead: that way needs no later call.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.alerts.calls import Calls, Send
from agent.alerts.errors import DeliveryError
from agent.alerts.notifiers.base import Notifier
from agent.alerts.notifiers.pagerduty import PagerDutyNotifier
from agent.alerts.notifiers.slack import SlackNotifier
from agent.alerts.pace import pause
from agent.alerts.routes import Routes
from agent.alerts.routing import Notification
from agent.alerts.scriptalert import Alert, AlertSeverity, AlertStatus, as_notification
from agent.clock import Clock, SystemClock
from agent.confignotify import CredentialRef, PagerDuty, Slack
from agent.configrouting import Route
from agent.telemetry.logs import get_logger
from agent.telemetry.redaction import REDACTOR
from agent.units import Seconds

_log = get_logger(__name__)

__all__ = ["Alert", "AlertManager", "AlertSeverity", "AlertStatus", "create_alert_manager"]

DEDUP_WINDOW = Seconds(300.0)
PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
_ATTEMPTS = 3
_LONGEST_WAIT = 5.0


@dataclass
class _Destination:
    """A notifier and what it has accepted: dedup key and status, and when (monotonic)."""

    notifier: Notifier
    lock: threading.Lock = field(default_factory=threading.Lock)
    accepted: dict[str, tuple[str, float]] = field(default_factory=dict)


class AlertManager:
    """Sends alerts to PagerDuty (critical ones) and Slack (all)."""

    def __init__(
        self,
        pagerduty_integration_key: str | None = None,
        slack_webhook_url: str | None = None,
        slack_channel: str = "#trading-alerts",
        *,
        pagerduty_url: str = PAGERDUTY_URL,
        clock: Clock | None = None,
        state_dir: Path | str | None = None,
        route: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            state_dir: folder of a durable outbox; one process at a time holds it, until `close`.
            route: a tree as `alerts.route` in the configuration; default: critical ones go to
                PagerDuty and all to Slack.

        Raises:
            AgentError: another process holds `state_dir`, or the tree names what is not there.
        """
        self._clock = clock or SystemClock()
        self._destinations: dict[str, _Destination] = {}
        if pagerduty_integration_key:
            ref = CredentialRef.model_validate({"secret": "pagerduty"})
            pager = PagerDuty.model_validate({"url": pagerduty_url, "routing_key": ref})
            key = pagerduty_integration_key.encode()
            self._add(PagerDutyNotifier(pager, lambda _name: key, REDACTOR.learn))
        if slack_webhook_url:
            ref = CredentialRef.model_validate({"secret": "slack"})
            slack = Slack.model_validate({"webhook_url": ref, "channel": slack_channel})
            hook = slack_webhook_url.encode()
            self._add(SlackNotifier(slack, lambda _name: hook, REDACTOR.learn))
        self._routes = Routes(
            None if route is None else Route.model_validate(route),
            [destination.notifier.route for destination in self._destinations.values()],
            os.environ.get("ENVIRONMENT", ""),
            DEDUP_WINDOW,
        )
        self._calls = None if state_dir is None else Calls(Path(state_dir), self._clock)

    def _add(self, notifier: Notifier) -> None:
        self._destinations[notifier.name] = _Destination(notifier)

    async def send_alert(self, alert: Alert) -> dict[str, bool]:
        """Send to every destination of the alert's severity, at once.

        Returns whether each has it; `{"deduplicated": True}` when all had it already. Raises
        nothing: a failure is False, and logged with its reason.
        """
        labels = {
            **alert.labels,
            "alertname": alert.alert_name,
            "service": alert.service,
            "team": alert.team,
            "severity": alert.severity.value,
        }
        names = [way.destination for way in self._routes.ways(labels)]
        if self._calls is not None:
            return await self._send_durably(self._calls, alert, names)
        outcomes = await asyncio.gather(
            *(asyncio.to_thread(self._deliver, self._destinations[name], alert) for name in names)
        )
        if outcomes and all(outcome is None for outcome in outcomes):
            return {"deduplicated": True}
        return {name: outcome is not False for name, outcome in zip(names, outcomes, strict=True)}

    async def _send_durably(self, calls: Calls, alert: Alert, names: list[str]) -> dict[str, bool]:
        fresh = [name for name in names if not self._has(self._destinations[name], alert)]
        if names and not fresh:
            return {"deduplicated": True}
        senders = {name: self._sending(self._destinations[name]) for name in fresh}
        scrubbed: Any = REDACTOR.scrub_tree(as_notification(alert, self._clock.now()).as_dict())
        done = await calls.say(Notification.from_dict(scrubbed), senders)
        for name in (name for name, has in done.items() if has):
            accepted = (alert.status.value, self._clock.monotonic())
            self._destinations[name].accepted[alert.dedup_key] = accepted
        return {name: done.get(name, True) for name in names}

    def _sending(self, destination: _Destination) -> Send:
        def send(notification: Notification) -> None:
            with destination.lock:
                try:
                    self._send(destination.notifier, notification)
                finally:
                    destination.notifier.close()

        return send

    def close(self) -> None:
        """Let go of the state folder; what was not accepted stays in it."""
        if self._calls is not None:
            self._calls.close()

    async def send_critical_latency_alert(self, service: str, latency_us: float) -> dict[str, bool]:
        """P99 latency above 25 µs."""
        return await self.send_alert(
            Alert(
                alert_name="CriticalLatencyP99High",
                severity=AlertSeverity.CRITICAL,
                status=AlertStatus.FIRING,
                message=f"CRITICAL: {service} P99 latency > 25µs",
                description=(
                    f"{service} P99 latency is {latency_us:.1f}µs, exceeding critical threshold of"
                    " 25µs. This may impact trading performance."
                ),
                service=service,
                team="trading",
                timestamp=self._clock.now(),
                labels={
                    "service": service,
                    "latency_us": str(latency_us),
                    "threshold_us": "25",
                },
                annotations={
                    "impact": "Trading performance degradation",
                    "action_required": "Investigate performance bottlenecks",
                },
                runbook_url="https://wiki.company.com/runbooks/trading/latency-high",
                dashboard_url="http://grafana:3000/d/risk-enforcement/risk-enforcement-dashboard",
            )
        )

    async def send_audit_log_error_alert(
        self, error_count: int, error_message: str
    ) -> dict[str, bool]:
        """The audit log cannot be written."""
        return await self.send_alert(
            Alert(
                alert_name="CriticalAuditLogWriteErrors",
                severity=AlertSeverity.CRITICAL,
                status=AlertStatus.FIRING,
                message="CRITICAL: Audit log write errors detected",
                description=(
                    f"{error_count} audit log write errors in the last 5 minutes. Compliance"
                    f" logging is failing. Error: {error_message}"
                ),
                service="audit_logging",
                team="trading",
                timestamp=self._clock.now(),
                labels={"error_count": str(error_count), "error_type": "write_failure"},
                annotations={
                    "impact": "Regulatory compliance at risk - audit trail incomplete",
                    "action_required": "Fix audit logging immediately",
                },
                runbook_url="https://wiki.company.com/runbooks/trading/audit-log-errors",
            )
        )

    async def send_circuit_breaker_alert(
        self, breaker_name: str, trip_count: int
    ) -> dict[str, bool]:
        """A circuit breaker has tripped."""
        return await self.send_alert(
            Alert(
                alert_name="CriticalCircuitBreakerTripped",
                severity=AlertSeverity.CRITICAL,
                status=AlertStatus.FIRING,
                message="CRITICAL: Circuit breaker tripped",
                description=(
                    f"Circuit breaker '{breaker_name}' has tripped {trip_count} times in the last"
                    " minute. Trading may be halted."
                ),
                service="circuit_breaker",
                team="trading",
                timestamp=self._clock.now(),
                labels={"breaker_name": breaker_name, "trip_count": str(trip_count)},
                annotations={
                    "impact": "Trading operations may be suspended",
                    "action_required": "Investigate circuit breaker cause and reset if safe",
                },
                runbook_url="https://wiki.company.com/runbooks/trading/circuit-breaker-trip",
            )
        )

    async def send_risk_limit_breach_alert(
        self, limit_type: str, current_value: float, limit_value: float
    ) -> dict[str, bool]:
        """A risk limit is breached. Values in dollars."""
        over = (current_value - limit_value) / limit_value * 100 if limit_value else float("inf")
        return await self.send_alert(
            Alert(
                alert_name="CriticalRiskLimitBreach",
                severity=AlertSeverity.CRITICAL,
                status=AlertStatus.FIRING,
                message="CRITICAL: Risk limit breached",
                description=(
                    f"Risk limit '{limit_type}' breached. Current value: ${current_value:,.0f},"
                    f" Limit: ${limit_value:,.0f}"
                ),
                service="risk_management",
                team="trading",
                timestamp=self._clock.now(),
                labels={
                    "limit_type": limit_type,
                    "current_value": f"{current_value:.0f}",
                    "limit_value": f"{limit_value:.0f}",
                    "breach_percentage": f"{over:.1f}",
                },
                annotations={
                    "impact": "Risk exposure exceeds acceptable levels",
                    "action_required": "Reduce positions or adjust risk limits",
                },
                runbook_url="https://wiki.company.com/runbooks/trading/risk-limit-breach",
            )
        )

    def _deliver(self, destination: _Destination, alert: Alert) -> bool | None:
        """True: accepted now. None: accepted within the window before. False: not accepted."""
        with destination.lock:
            if self._has(destination, alert):
                return None
            scrubbed: Any = REDACTOR.scrub_tree(as_notification(alert, self._clock.now()).as_dict())
            try:
                self._send(destination.notifier, Notification.from_dict(scrubbed))
            except DeliveryError as error:
                _log.error(
                    "alert not sent",
                    alert=alert.alert_name,
                    destination=destination.notifier.name,
                    error=error.told(),
                )
                return False
            finally:
                destination.notifier.close()
            destination.accepted[alert.dedup_key] = (alert.status.value, self._clock.monotonic())
            return True

    def _has(self, destination: _Destination, alert: Alert) -> bool:
        """Whether the destination has accepted it within the window."""
        now, accepted = self._clock.monotonic(), destination.accepted
        for key in [k for k, (_, at) in accepted.items() if now - at >= DEDUP_WINDOW]:
            del accepted[key]
        if accepted.get(alert.dedup_key, ("", 0.0))[0] != alert.status.value:
            return False
        _log.info("alert was sent already", alert=alert.alert_name)
        return True

    def _send(self, notifier: Notifier, notification: Notification) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                notifier.send(notification, self._clock.now())
                return
            except DeliveryError as error:
                wait = pause(error, attempt, random.random)
                if error.permanent or attempt == _ATTEMPTS or wait > _LONGEST_WAIT:
                    raise
            time.sleep(wait)


def create_alert_manager(
    environ: Mapping[str, str] | None = None, *, state_dir: Path | str | None = None
) -> AlertManager:
    """A manager as the environment says: `PAGERDUTY_INTEGRATION_KEY`, `SLACK_WEBHOOK_URL`,
    `SLACK_CHANNEL` (default `#trading-alerts`). A destination without its variable is left out,
    with a warning. `state_dir` is where what is not accepted is kept; without it, nowhere.
    """
    environ = os.environ if environ is None else environ
    key = environ.get("PAGERDUTY_INTEGRATION_KEY")
    hook = environ.get("SLACK_WEBHOOK_URL")
    for name, told, value in (
        ("PAGERDUTY_INTEGRATION_KEY", "PagerDuty", key),
        ("SLACK_WEBHOOK_URL", "Slack", hook),
    ):
        if not value:
            _log.warning(f"{name} is not set: nothing is sent to {told}")
    return AlertManager(
        pagerduty_integration_key=key,
        slack_webhook_url=hook,
        slack_channel=environ.get("SLACK_CHANNEL", "#trading-alerts"),
        state_dir=state_dir,
    )
