"""`jules-agent run`: the long-running sidecar."""

from __future__ import annotations

import argparse

from agent.commands.common import config_path, read_config, set_up_logging
from agent.hardening import harden


def run(arguments: argparse.Namespace) -> int:
    """Harden, read the configuration, run the daemon until it is told to leave."""
    harden()
    config = read_config(arguments)
    set_up_logging(config, arguments)
    import asyncio

    from agent.daemon import Daemon

    return asyncio.run(Daemon(config, config_path(arguments)).run())
