"""`jules-agent alerts …`: what the running agent's rules say now."""

from __future__ import annotations

import argparse
import time

from agent.commands.common import ago, read_config, show, table
from agent.web.client import call


def list_alerts(arguments: argparse.Namespace) -> int:
    """Pending and firing alerts."""
    status = call(read_config(arguments).admin_socket, "status", {}, timeout=10.0)
    alerts = (status.get("alerts") or {}).get("alerts", [])
    now = time.time()
    rows = [
        (
            alert["state"],
            alert["severity"] or "-",
            alert["name"],
            ago(now - alert["active_at"]),
            "-" if alert["value"] is None else f"{float(alert['value']):.6g}",
            ", ".join(f"{k}={v}" for k, v in sorted(alert["labels"].items())),
        )
        for alert in alerts
    ]
    headings = ("STATE", "SEVERITY", "ALERT", "FOR", "VALUE", "LABELS")
    show(arguments, alerts, table(rows, headings) or "nothing is pending or firing")
    return 0
