"""`jules-agent secrets audit …`: check the audit log's chain, and read it."""

from __future__ import annotations

import argparse
import time
from collections import deque
from typing import Any

from agent.auditchain import records, verify_chain
from agent.commands.common import read_config, show, table


def verify(arguments: argparse.Namespace) -> int:
    """Follow the chain from end to end; exit 1 where it is broken."""
    folder = read_config(arguments).state_path
    seen = verify_chain(folder)
    told = {
        "records": seen.records,
        "files": seen.files,
        "first_seq": seen.first_seq,
        "last_seq": seen.last_seq,
        "torn_bytes": seen.torn,
    }
    text = f"{seen.records} records in {seen.files} files are whole and in order"
    if seen.records:
        text += f" ({seen.first_seq} to {seen.last_seq})"
    if seen.torn:
        text += f"; a last line of {seen.torn} bytes was cut short by a kill"
    show(arguments, told, text)
    return 0


def show_records(arguments: argparse.Namespace) -> int:
    """Print the newest records that match."""
    folder = read_config(arguments).state_path
    matching = (record for record in records(folder) if _matches(record, arguments))
    found: list[dict[str, Any]] = list(deque(matching, maxlen=max(1, arguments.limit)))
    rows = [
        (
            _when(record.get("at")),
            str(record.get("actor", "")),
            str(record.get("action", "")),
            str(record.get("subject", "")),
            str(record.get("outcome", "")),
            " ".join(
                [f"{key}={value}" for key, value in (record.get("detail") or {}).items()]
                + ([f"why={record['why']!r}"] if record.get("why") else [])
            ),
        )
        for record in found
    ]
    text = table(rows, ("WHEN", "WHO", "WHAT", "ON", "OUTCOME", "MORE"))
    show(arguments, found, text or "no record matches")
    return 0


def _matches(record: dict[str, Any], arguments: argparse.Namespace) -> bool:
    wanted = (
        ("actor", arguments.actor),
        ("action", arguments.action),
        ("subject", arguments.subject),
        ("outcome", arguments.outcome),
    )
    return all(text is None or text in str(record.get(key, "")) for key, text in wanted)


def _when(at: object) -> str:
    if not isinstance(at, int | float):
        return "?"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
