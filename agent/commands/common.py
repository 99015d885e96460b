"""What every verb shares: reading the configuration, setting up the process, printing."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.configload import load_config
from agent.configpod import PodConfig
from agent.hardening import lock_memory
from agent.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from agent.config import Config


def config_path(arguments: argparse.Namespace) -> Path | None:
    """The file that --config or JULES_CONFIG names; None for defaults alone."""
    named = arguments.config or os.environ.get("JULES_CONFIG")
    return Path(named) if named else None


def read_config(arguments: argparse.Namespace) -> Config:
    """The validated configuration.

    Raises:
        ConfigError: with everything that is wrong.
    """
    return load_config(config_path(arguments))


def set_up_logging(
    config: PodConfig, arguments: argparse.Namespace, *, at_first_event: bool = False
) -> None:
    """Logging as configured; --json makes every line JSON."""
    form = "json" if arguments.json else config.log.format
    configure_logging(config.log.level, form, at_first_event=at_first_event)


def keep_out_of_swap(config: PodConfig) -> None:
    """Lock this process's memory where `secrets.lock_memory` says so; a refusal is logged."""
    if not config.secrets.lock_memory:
        return
    from agent.telemetry.logs import get_logger

    problem = lock_memory()
    if problem is not None:
        get_logger(__name__).warning("memory is not kept out of swap", reason=problem)


def show(arguments: argparse.Namespace, tree: Any, text: str) -> None:
    """Print `tree` as JSON where --json was given, `text` otherwise."""
    if arguments.json:
        json.dump(tree, sys.stdout, indent=None if not sys.stdout.isatty() else 2, default=str)
        sys.stdout.write("\n")
    elif text:
        print(text)


def ago(seconds: float | None) -> str:
    """A duration as a person says it: `3s`, `12m`, `5h`, `2d`."""
    if seconds is None:
        return "never"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size * 2:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def table(rows: Sequence[tuple[str, ...]], headings: tuple[str, ...]) -> str:
    """Left-aligned columns, wide enough for what is in them."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    lines = [headings, *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
