"""`jules-agent alerts …`: what the rules say now, silences, a marked test, a replay."""

from __future__ import annotations

import argparse
import getpass
import time
from typing import Any

from agent.commands.common import ago, read_config, show, table
from agent.errors import Exit
from agent.web.client import call


def _ask(arguments: argparse.Namespace, verb: str, told: dict[str, Any], within: float) -> Any:
    return call(read_config(arguments).admin_socket, verb, told, timeout=within)


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


def send_test(arguments: argparse.Namespace) -> int:
    """A marked test to one destination: its answer, and how soon it came."""
    told = _ask(arguments, "alerts.test", {"destination": arguments.destination}, 40.0)
    name, tries = told["destination"], told["attempts"]
    if told["accepted"]:
        text = f"{name} accepted the test after {told['seconds']:.3f} s ({tries} attempts)"
    else:
        text = f"{name} has not accepted the test ({told['end']}, {tries} attempts)"
        text += f": {told['error']}" if told["error"] else ""
    show(arguments, told, text)
    return Exit.GOOD if told["accepted"] else Exit.BUG


def add_silence(arguments: argparse.Namespace) -> int:
    """Mute what meets all the matchers, for a while."""
    told = {
        "matchers": arguments.matchers,
        "duration": arguments.duration,
        "by": arguments.by or _user(),
        "comment": arguments.comment,
    }
    made = _ask(arguments, "silence.add", told, 10.0)
    show(arguments, made, f"silence {made['id']} mutes {', '.join(made['matchers'])}")
    return Exit.GOOD


def list_silences(arguments: argparse.Namespace) -> int:
    """Silences in force and planned."""
    found = _ask(arguments, "silence.list", {"expired": arguments.expired}, 10.0)["silences"]
    now = time.time()
    rows = [
        (
            silence["id"],
            silence["state"],
            ago(silence["ends_at"] - now) if silence["ends_at"] > now else "over",
            silence["by"],
            ", ".join(silence["matchers"]),
            silence["comment"],
        )
        for silence in found
    ]
    headings = ("ID", "STATE", "ENDS IN", "BY", "MUTES", "COMMENT")
    show(arguments, found, table(rows, headings) or "nothing is silenced")
    return Exit.GOOD


def expire_silence(arguments: argparse.Namespace) -> int:
    """End a silence now."""
    ended = _ask(arguments, "silence.expire", {"id": arguments.id}, 10.0)
    show(arguments, ended, f"silence {ended['id']} is over")
    return Exit.GOOD


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a uid without a name, as in a container
        return "operator"
