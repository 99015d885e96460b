"""`jules-agent bundle …`: the verbs of a running agent's rollouts."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from agent.commands.common import ago, read_config, show, table
from agent.errors import Exit

_JUDGED = ("gates", "verify", "bake")
"""Steps at which the trader and the metrics decide, no longer the bundle's files."""


def deploy(arguments: argparse.Namespace) -> int:
    """Ask the running agent for one rollout and wait for its end."""
    source = str(Path(arguments.source).absolute()) if arguments.source else None
    wanted = {
        "version": arguments.version,
        "source": source,
        "force": arguments.force,
        "hotfix": arguments.hotfix,
    }
    return _ended(arguments, _ask(arguments, "deploy", wanted, timeout=1800.0))


def rollback(arguments: argparse.Namespace) -> int:
    """Ask the running agent to flip back."""
    wanted = {"version": arguments.version, "reason": arguments.reason}
    return _ended(arguments, _ask(arguments, "rollback", wanted, timeout=120.0))


def history(arguments: argparse.Namespace) -> int:
    """What was deployed, newest first."""
    rollouts = _ask(arguments, "history", {"limit": arguments.limit}, timeout=10.0)["history"]
    now = time.time()
    rows: list[tuple[str, ...]] = [
        (
            str(item["version"]),
            str(item["state"]),
            str(item["from_version"] or "-"),
            ago(now - item["started_at"]) + " ago",
            str(item["actor"]),
            f"{item['ended_at'] - item['started_at']:.2f}s" if item["ended_at"] else "running",
            str(item["reason"] or item["why"] or ""),
        )
        for item in rollouts
    ]
    if arguments.steps:
        rows = [
            line for row, item in zip(rows, rollouts, strict=True) for line in (row, *_steps(item))
        ]
    headings = ("VERSION", "STATE", "FROM", "STARTED", "BY", "TOOK", "WHY")
    show(arguments, rollouts, table(rows, headings) or "nothing has been deployed yet")
    return 0


def _steps(rollout: dict[str, Any]) -> list[tuple[str, ...]]:
    """One line a step, and one for each value that decided it."""
    lines: list[tuple[str, ...]] = []
    for step in rollout["steps"]:
        took = f"{step['seconds']:.3f}s" if step["seconds"] is not None else "running"
        lines.append(("", "  " + step["step"], "", "", step["outcome"], took, step["detail"]))
        for seen in step.get("values", ()):
            before = "" if seen["before"] is None else f", before the flip {seen['before']}"
            value = "no result" if seen["value"] is None else seen["value"]
            why = seen["breach"] or seen["error"] or f"{seen['gate']}: {value}{before}"
            lines.append(("", "", "", "", "", "", why))
    return lines


def _ask(
    arguments: argparse.Namespace, verb: str, wanted: dict[str, Any], timeout: float
) -> dict[str, Any]:
    from agent.web.client import call

    return call(read_config(arguments).admin_socket, verb, wanted, timeout=timeout)


def _ended(arguments: argparse.Namespace, rollout: dict[str, Any]) -> int:
    state = str(rollout["state"]).upper()
    reason = f": {rollout['reason']}" if rollout.get("reason") else ""
    show(arguments, rollout, f"{rollout['version']} is {state}{reason}")
    return Exit.GOOD if state == "ACTIVE" else _why_not(rollout)


def _why_not(rollout: dict[str, Any]) -> Exit:
    """Whether the trader's side or the bundle itself was what ended it."""
    failed = [item["step"] for item in rollout.get("steps", ()) if item["outcome"] == "failed"]
    return Exit.HEALTH if failed and failed[0] in _JUDGED else Exit.BUNDLE
