"""The read model of groups and rules: what is judged, how often, how it went. Only reads."""

from __future__ import annotations

import math
from typing import Any

from agent.alerts.judge import Judge, Judged, JudgedGroup
from agent.alerts.rules import AlertRule
from agent.alerts.state import Alert
from agent.units import Seconds


def described(judge: Judge, interval: Seconds) -> list[dict[str, Any]]:
    """Every group with its rules; `interval` is that of groups which name none."""
    return [_group(group, interval) for group in judge.groups]


def alerts(judge: Judge) -> list[dict[str, Any]]:
    """Pending and firing alerts, each with the identity of its rule."""
    found = [(judged.id, alert) for judged in judge.rules() for alert in judged.alerts.values()]
    found.sort(key=lambda pair: (pair[1].state, pair[1].active_at, pair[1].name))
    return [_alert(rule, alert) for rule, alert in found]


def _group(group: JudgedGroup, interval: Seconds) -> dict[str, Any]:
    return {
        "name": group.group.name,
        "file": str(group.group.file),
        "interval": group.group.interval or interval,
        "limit": group.group.limit,
        "missed": group.missed,
        "evaluated_at": group.at,
        "seconds": sum(judged.seconds for judged in group.rules),
        "rules": [_rule(judged) for judged in group.rules],
    }


def _rule(judged: Judged) -> dict[str, Any]:
    rule = judged.rule
    told: dict[str, Any] = {
        "id": judged.id,
        "name": rule.name,
        "type": "alerting" if isinstance(rule, AlertRule) else "recording",
        "state": judged.state,
        "query": rule.expr.text,
        "labels": {name: str(getattr(text, "text", text)) for name, text in rule.labels.items()},
        "last_error": judged.last_error,
        "evaluated_at": judged.at,
        "seconds": round(judged.seconds, 9),
    }
    if isinstance(rule, AlertRule):
        told["for"] = rule.hold
        told["keep_firing_for"] = rule.keep_firing_for
        told["annotations"] = {name: text.text for name, text in rule.annotations.items()}
    return told


def _alert(rule: str, alert: Alert) -> dict[str, Any]:
    return {
        "rule": rule,
        "name": alert.name,
        "state": alert.state,
        "severity": alert.severity,
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "value": alert.value if math.isfinite(alert.value) else None,
        "active_at": alert.active_at,
        "fired_at": alert.fired_at,
        "keeping_since": alert.keeping_since,
    }
