"""Rules and alerts as Prometheus's HTTP API tells them, from the alerts job's read model. Pure.

What reads `GET /api/v1/rules` and `GET /api/v1/alerts` of a Prometheus reads these: Grafana, amtool
and scripts. Format: prometheus.io, "HTTP API", "Rules" and "Alerts".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

Query = Mapping[str, Sequence[str]]
_NEVER = "0001-01-01T00:00:00Z"


def rules(model: Mapping[str, Any], query: Query) -> tuple[int, dict[str, Any]]:
    """Status and body of `/api/v1/rules`; `type`, `rule_name[]`, `rule_group[]`, `file[]` and
    `exclude_alerts` choose as they do there."""
    kind = _last(query, "type")
    if kind not in ("", "alert", "record"):
        return 400, _error("bad_data", f"not supported value {kind!r} for type")
    wanted = {"alert": "alerting", "record": "recording"}.get(kind)
    names, groups, files = (
        set(query.get(f"{word}[]", ())) for word in ("rule_name", "rule_group", "file")
    )
    bare = _last(query, "exclude_alerts") in ("true", "1", "t")
    active: dict[str, list[Mapping[str, Any]]] = {}
    for alert in () if bare else model["alerts"]:
        active.setdefault(alert["rule"], []).append(alert)
    told = []
    for group in model["groups"]:
        if (groups and group["name"] not in groups) or (files and group["file"] not in files):
            continue
        chosen = [
            _rule(rule, active.get(rule["id"], ()))
            for rule in group["rules"]
            if (not names or rule["name"] in names) and wanted in (None, rule["type"])
        ]
        if chosen or not (names or wanted):
            told.append(_group(group, chosen))
    return 200, _success({"groups": told})


def alerts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Body of `/api/v1/alerts`."""
    return _success({"alerts": [_alert(alert) for alert in model["alerts"]]})


def switched_off() -> dict[str, Any]:
    """Body for an agent whose alerts job is off."""
    return _error("unavailable", "the alerts job is switched off: set alerts.enabled: true")


def _group(group: Mapping[str, Any], chosen: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": group["name"],
        "file": group["file"],
        "rules": chosen,
        "interval": group["interval"],
        "limit": group["limit"],
        "evaluationTime": group["seconds"],
        "lastEvaluation": _time(group["evaluated_at"]),
    }


def _rule(rule: Mapping[str, Any], active: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": rule["name"],
        "query": rule["query"],
        "labels": rule["labels"],
        "health": "err" if rule["last_error"] else "ok" if rule["evaluated_at"] else "unknown",
        "evaluationTime": rule["seconds"],
        "lastEvaluation": _time(rule["evaluated_at"]),
        "type": rule["type"],
    }
    if rule["last_error"]:
        told["lastError"] = rule["last_error"]
    if rule["type"] == "alerting":
        told["state"] = rule["state"]
        told["duration"] = rule["for"]
        told["keepFiringFor"] = rule["keep_firing_for"]
        told["annotations"] = rule["annotations"]
        told["alerts"] = [_alert(alert) for alert in active]
    return told


def _alert(alert: Mapping[str, Any]) -> dict[str, Any]:
    told = {
        "labels": alert["labels"],
        "annotations": alert["annotations"],
        "state": alert["state"],
        "activeAt": _time(alert["active_at"]),
        "value": exponent(alert["value"]),
    }
    if alert.get("keeping_since") is not None:
        told["keepFiringSince"] = _time(alert["keeping_since"])
    return told


def exponent(value: float | None) -> str:
    """A number as Go's `%e` with the fewest digits has it: `2.55e+01`. None was no finite one."""
    if value is None or not math.isfinite(value):
        return "NaN"
    mantissa, _, power = f"{Decimal(repr(float(value))).normalize():e}".partition("e")
    number = int(power or "0")
    return f"{mantissa}e{'-' if number < 0 else '+'}{abs(number):02d}"


def _time(at: float | None) -> str:
    if at is None:
        return _NEVER
    told = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return told.replace("+00:00", "Z")


def _last(query: Query, name: str) -> str:
    values = query.get(name, ())
    return values[-1] if values else ""


def _success(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": "success", "data": data}


def _error(kind: str, told: str) -> dict[str, Any]:
    return {"status": "error", "errorType": kind, "error": told}
