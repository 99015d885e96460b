"""A daemon's read side under a test's hand, in the states that a person meets."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from agent.errors import UsageError
from agent.health import Condition, ready
from agent.telemetry.exporter import PrometheusRecorder

NOW = 1_752_105_600.0  # 2025-07-10 00:00:00 UTC

GREEN: dict[str, Any] = {
    "agent": {
        "version": "0.1.0",
        "environment": "production",
        "pod": "trader-7c9f-2xkqv",
        "pid": 7,
        "started_at": NOW - 273_600,
        "uptime_seconds": 273_600.0,
    },
    "jobs": {
        name: {"state": "running", "restarts": 0, "last_error": None, "since": NOW - 273_600}
        for name in ("secrets", "bundles", "alerts")
    },
    "secrets": {
        "directory": "/run/secrets/trading",
        "filesystem": "tmpfs",
        "generation": 42,
        "published_at": NOW - 8_100,
        "items": [
            {
                "name": name,
                "path": f"{name}.json",
                "provider": "local",
                "version": version,
                "fetched_at": NOW - age,
                "age_seconds": age,
                "stale": False,
                "required": True,
                "error": None,
            }
            for name, version, age in (
                ("database/main", "9", 12.4),
                ("broker/interactive_brokers", "3", 12.4),
                ("api_key/market_data", "17", 100.0),
            )
        ],
        "cache": {"hits": 812, "misses": 3, "hit_rate": 0.9963},
    },
    "bundles": {
        "current": "v2025-07-06",
        "previous": "v2025-07-01",
        "current_since": NOW - 260_000,
        "root": "/opt/intradayjules/models",
        "channel": "production",
        "store": {
            "name": "/mnt/store",
            "reachable": True,
            "last_success": NOW - 4,
            "error": None,
        },
        "desired": "v2025-07-06",
        "rollout": None,
        "history": [
            {
                "id": 2,
                "version": "v2025-07-06",
                "state": "ACTIVE",
                "from_version": "v2025-07-01",
                "actor": "channel",
                "started_at": NOW - 260_070,
                "ended_at": NOW - 260_000,
                "reason": None,
                "steps": [],
            },
            {
                "id": 1,
                "version": "v2025-07-03",
                "state": "FAILED",
                "from_version": "v2025-07-01",
                "actor": "operator",
                "started_at": NOW - 500_000,
                "ended_at": NOW - 499_999.2,
                "reason": "policy.pt: sha256 differs from the manifest's",
                "steps": [],
            },
        ],
        "quarantine": [],
        "versions": ["v2025-07-01", "v2025-07-06"],
    },
    "alerts": {
        "rules": 11,
        "groups": [],
        "series": 214,
        "targets": [
            {
                "job": "trader",
                "url": "http://localhost:8000/metrics",
                "up": True,
                "last_scrape": NOW - 0.6,
                "last_error": None,
                "seconds": 0.003,
            }
        ],
        "alerts": [],
        "destinations": [
            {
                "name": name,
                "pending": 0,
                "oldest_seconds": None,
                "last_success": NOW - 500,
                "last_error": None,
                "accepted": 12,
            }
            for name in ("pagerduty", "slack")
        ],
    },
}

FIRING = {
    "name": "TradingLatencyP99High",
    "state": "firing",
    "severity": "critical",
    "labels": {"alertname": "TradingLatencyP99High", "job": "trader", "instance": "localhost:8000"},
    "annotations": {
        "summary": "p99 of an order's decision is 41.2 µs, above 25 µs",
        "runbook_url": "https://runbooks.internal/latency",
    },
    "value": 0.0000412,
    "active_at": NOW - 95,
    "fired_at": NOW - 65,
}

PENDING = {
    **FIRING,
    "name": "OrderRejectsRising",
    "state": "pending",
    "severity": "warning",
    "labels": {"job": "trader", "venue": "XNAS"},
    "annotations": {"summary": "3 % of orders are rejected"},
    "value": float("inf"),
    "active_at": NOW - 20,
    "fired_at": None,
}


class FakeFace:
    """Implements the face's read side and the admin verbs over plain data."""

    def __init__(self) -> None:
        self.tree = copy.deepcopy(GREEN)
        self.alive = True
        self.latched = True
        self.found = [
            Condition("secrets-published", True, "generation 42 is published"),
            Condition("bundle-live", True, "v2025-07-06 is live"),
            Condition("targets-scraped", True, "every target is", gates_ready=False),
        ]
        self.recorder = PrometheusRecorder()
        self.breaks: Exception | None = None
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def fail(self, name: str, reason: str, remedy: str = "", *, gates: bool = True) -> None:
        """Let the condition `name` be wrong."""
        self.found = [item for item in self.found if item.name != name]
        self.found.append(Condition(name, False, reason, remedy, gates))

    def live(self) -> tuple[bool, str]:
        if self.breaks:
            raise self.breaks
        return self.alive, "the event loop turns" if self.alive else "it has not turned for 12 s"

    def conditions(self) -> list[Condition]:
        return list(self.found)

    def ready(self) -> tuple[bool, list[Condition]]:
        return ready(self.found), self.conditions()

    def started(self) -> tuple[bool, str]:
        return self.latched, "has been ready" if self.latched else "has not been ready yet"

    def expose(self, accept: str) -> tuple[str, bytes]:
        return self.recorder.expose(accept)

    def status(self) -> dict[str, Any]:
        good, found = self.ready()
        seen = {
            **self.tree,
            "live": self.alive,
            "ready": good,
            "started": self.latched,
            "conditions": [item.as_dict() for item in found],
        }
        return copy.deepcopy(seen)

    async def admin(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append((verb, arguments))
        if verb == "status":
            return self.status()
        raise UsageError(f"no such verb: {verb}", "see `jules-agent --help`")


def red() -> FakeFace:
    """What the trader needs is missing, and more is wrong besides."""
    face = FakeFace()
    face.fail(
        "secrets-published",
        "no generation of secrets is published: /var/lib/jules-agent/secrets.enc cannot be read",
        "chown it to the agent's uid, mode 0600, then `jules-agent secrets refresh`",
    )
    face.fail(
        "config",
        "the last reload was refused: line 14: alerts.pagerduty.routing_key: name exactly one of"
        " `secret`, `file`, `env`",
        "correct the file and send SIGHUP again; the old one is in force",
        gates=False,
    )
    face.tree["secrets"]["generation"] = None
    first, second = face.tree["secrets"]["items"][:2]
    first.update(age_seconds=None, version=None, provider=None, error="cannot be read")
    second.update(age_seconds=7300.0, stale=True)
    face.tree["alerts"]["alerts"] = [PENDING, FIRING]
    face.tree["alerts"]["destinations"][0].update(
        pending=4, oldest_seconds=310.0, last_error="HTTP 429, asked to wait 30 s"
    )
    face.tree["jobs"]["bundles"].update(
        state="backoff", restarts=3, last_error="OSError: [Errno 5] Input/output error"
    )
    return face


def rolling_out() -> FakeFace:
    """A new version bakes."""
    face = FakeFace()
    steps = [
        {"step": step, "seconds": seconds, "outcome": "ok", "detail": ""}
        for step, seconds in (
            ("copy", 0.412),
            ("validate", 0.031),
            ("gates", 0.006),
            ("flip", 0.002),
            ("verify", 1.2),
        )
    ]
    bundles = face.tree["bundles"]
    bundles.update(current="v2025-07-08", previous="v2025-07-06", current_since=NOW - 41)
    bundles["desired"] = "v2025-07-08"
    bundles["rollout"] = {
        "version": "v2025-07-08",
        "state": "DEPLOYING",
        "step": "bake",
        "started_at": NOW - 43,
        "bake": {
            "ends_at": NOW + 139,
            "gates": [
                {
                    "name": "critical-alerts",
                    "expr": 'ALERTS{alertstate="firing", severity="critical"}',
                    "ok": True,
                    "value": None,
                },
                {
                    "name": "latency-p99",
                    "expr": "p99 > 25e-6",
                    "ok": False,
                    "value": None,
                    "error": "no scrape yet",
                },
                {"name": "orders", "expr": "rejects > 0", "ok": False, "value": 0.0000187},
            ],
        },
    }
    bundles["history"].insert(
        0,
        {
            "id": 3,
            "version": "v2025-07-08",
            "state": "DEPLOYING",
            "from_version": "v2025-07-06",
            "actor": "channel",
            "started_at": NOW - 43,
            "ended_at": None,
            "reason": None,
            "steps": steps,
        },
    )
    return face
