"""`jules-agent status` and `reload`: the running agent, asked over its admin socket."""

from __future__ import annotations

import argparse
from typing import Any

from agent.commands.common import ago, read_config, show
from agent.errors import Exit
from agent.web.client import call


def status(arguments: argparse.Namespace) -> int:
    """What is live, what fires and what is wrong; exit 5 when the agent is not ready."""
    seen = call(read_config(arguments).admin_socket, "status", {}, timeout=10.0)
    show(arguments, seen, "\n".join(_lines(seen)))
    return Exit.GOOD if seen["ready"] else Exit.HEALTH


def reload(arguments: argparse.Namespace) -> int:
    """Apply the changed configuration, or hear why not."""
    answer = call(read_config(arguments).admin_socket, "reload", {}, timeout=30.0)
    show(arguments, answer, "the configuration is in force")
    return 0


def _lines(seen: dict[str, Any]) -> list[str]:
    agent = seen["agent"]
    verdict = "ready" if seen["ready"] else "NOT READY"
    lines = [
        f"{verdict}  {agent['pod']} ({agent['environment']}), "
        f"jules-agent {agent['version']}, up {ago(agent['uptime_seconds'])}"
    ]
    for condition in seen["conditions"]:
        if not condition["ok"]:
            lines.append(f"  ! {condition['name']}: {condition['reason']}")
            if condition["remedy"]:
                lines.append(f"      what to do: {condition['remedy']}")
    now = agent["started_at"] + agent["uptime_seconds"]
    lines.extend(_bundle_lines(seen["bundles"], now))
    lines.extend(_secret_lines(seen["secrets"]))
    lines.extend(_alert_lines(seen["alerts"], now))
    return lines


def _bundle_lines(bundles: dict[str, Any] | None, now: float) -> list[str]:
    if bundles is None:
        return []
    since = bundles["current_since"]
    live = f" since {ago(now - since)}" if since else ""
    before = f", before it {bundles['previous']}" if bundles["previous"] else ""
    lines = [f"bundle   {bundles['current'] or 'none'}{live}{before}"]
    if bundles["rollout"]:
        rollout = bundles["rollout"]
        lines.append(f"         rolling out {rollout['version']}: {rollout['step']}")
    return lines


def _secret_lines(secrets: dict[str, Any] | None) -> list[str]:
    if secrets is None:
        return []
    stale = [item["name"] for item in secrets["items"] if item["stale"]]
    told = f"stale: {', '.join(stale)}" if stale else "all fresh"
    return [f"secrets  generation {secrets['generation']}, {len(secrets['items'])} secrets, {told}"]


def _alert_lines(alerts: dict[str, Any] | None, now: float) -> list[str]:
    if alerts is None:
        return []
    lines = [f"alerts   {alerts['rules']} rules over {alerts['series']} series"]
    for alert in alerts["alerts"]:
        lines.append(
            f"         {alert['state'].upper()} {alert['name']} for {ago(now - alert['active_at'])}"
        )
    for destination in alerts["destinations"]:
        if destination["pending"]:
            lines.append(
                f"         {destination['pending']} undelivered to {destination['name']}: "
                f"{destination['last_error']}"
            )
    return lines
