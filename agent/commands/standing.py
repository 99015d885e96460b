"""`jules-agent bundle hold|resume|pin|unpin|gc|diff`: what stays live, and what stays on disk."""

from __future__ import annotations

import argparse
import datetime as dt
import time
from typing import Any

from agent.commands.common import read_config, show, table
from agent.errors import UsageError


def hold(arguments: argparse.Namespace) -> int:
    """Keep what is live."""
    until = _time(arguments.until) if arguments.until else None
    told = _ask(arguments, "hold", {"reason": arguments.reason, "until": until})
    end = f" until {_local(until)}" if until else ", until `jules-agent bundle resume`"
    show(arguments, told, f"{told['current'] or 'what is live'} is held{end}")
    return 0


def resume(arguments: argparse.Namespace) -> int:
    """End the hold."""
    told = _ask(arguments, "resume", {})
    show(arguments, told, "the hold is over; the channel is followed again")
    return 0


def pin(arguments: argparse.Namespace) -> int:
    """Keep a version on disk."""
    return _pinned(arguments, "pin")


def unpin(arguments: argparse.Namespace) -> int:
    """Let it go again."""
    return _pinned(arguments, "unpin")


def collect(arguments: argparse.Namespace) -> int:
    """Remove versions that retention no longer keeps."""
    told = _ask(arguments, "gc", {"dry_run": arguments.dry_run}, timeout=600.0)
    listed = told.get("would_remove", told.get("removed", []))
    rows = [
        (str(item["version"]), size(item["bytes"]), "a reader is in it" * bool(item.get("leased")))
        for item in listed
    ]
    words = "would be freed" if arguments.dry_run else "freed"
    text = table(rows, ("VERSION", "BYTES", "")) + f"\n{size(told['bytes'])} {words}"
    show(arguments, told, text if rows else "nothing to remove")
    return 0


def diff(arguments: argparse.Namespace) -> int:
    """What differs between two versions on disk; needs no running agent."""
    from agent.bundles.difference import difference, lines
    from agent.bundles.layout import Layout
    from agent.bundles.manifest import check_version

    layout = Layout(read_config(arguments).bundles.root)
    one, two = (check_version(name) for name in (arguments.version, arguments.other))
    told = difference(layout, one, two)
    rows = [
        (item["change"], item["path"], size(item["before"]), size(item["after"]))
        for item in told["files"]
    ]
    parts = [table(rows, ("CHANGE", "FILE", "BEFORE", "AFTER")), *lines(told)]
    text = "\n".join(part for part in parts if part) or f"{one} and {two} hold the same files"
    show(arguments, told, text)
    return 0


def size(count: int | None) -> str:
    """Bytes as a person reads them."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def _pinned(arguments: argparse.Namespace, verb: str) -> int:
    told = _ask(arguments, verb, {"version": arguments.version})
    show(arguments, told, f"pinned: {', '.join(told['pins']) or 'none'}")
    return 0


def _time(text: str) -> float:
    """A duration from now, or a date and time with its offset; seconds since 1970.

    Raises:
        UsageError: it is neither.
    """
    from agent.configtypes import parse_duration

    try:
        seconds = parse_duration(text)
        assert isinstance(seconds, float | int)
        return time.time() + seconds
    except ValueError:
        pass
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise UsageError(
            f"{text!r} is no time", "give 30m or 2h, or 2025-07-08T16:00-04:00 with its offset"
        )
    return at.timestamp()


def _local(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ask(
    arguments: argparse.Namespace, verb: str, wanted: dict[str, Any], timeout: float = 10.0
) -> dict[str, Any]:
    from agent.web.client import call

    return call(read_config(arguments).admin_socket, verb, wanted, timeout=timeout)
