"""`jules-agent alerts …`: what the rules say now, silences, a marked test, a replay."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.commands.common import ago, read_config, show, table
from agent.configtypes import parse_duration
from agent.errors import Exit, UsageError
from agent.units import Seconds
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


def replay_rules(arguments: argparse.Namespace) -> int:
    """What a recording would have paged, and when; nothing is sent."""
    from agent.alerts.replay import replay

    config = read_config(arguments)
    rules = arguments.rules or list(config.alerts.rules)
    try:
        with open(arguments.metrics, "rb") as source:
            told = asyncio.run(
                replay(source, rules, config.alerts.interval, {"job": arguments.job})
            )
    except OSError as error:
        raise UsageError(f"{arguments.metrics}: {error.strerror}") from None
    rows = [
        (
            datetime.fromtimestamp(item.at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
            item.change,
            item.severity or "-",
            item.name,
            f"{item.value:.6g}",
            item.summary,
        )
        for item in told
    ]
    headings = ("AT (UTC)", "CHANGE", "SEVERITY", "ALERT", "VALUE", "SUMMARY")
    tree = [{**asdict(item), "labels": dict(item.labels)} for item in told]
    show(arguments, tree, table(rows, headings) or "nothing would have been told")
    return Exit.GOOD


def record_target(arguments: argparse.Namespace) -> int:
    """Write a live target's scrapes to a file that `replay` plays."""
    from agent.alerts.replay import record

    every, length = _seconds(arguments.every), _seconds(arguments.duration)
    count = record(arguments.url, Path(arguments.output), every, length)
    show(arguments, {"scrapes": count}, f"{count} scrapes in {arguments.output}")
    return Exit.GOOD


def _seconds(text: str) -> Seconds:
    try:
        seconds = float(str(parse_duration(text)))
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from None
    if seconds <= 0:
        raise UsageError(f"{text}: no positive duration")
    return Seconds(seconds)
