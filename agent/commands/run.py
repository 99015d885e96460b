"""`jules-agent run`: the long-running sidecar."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
from types import FrameType

from agent.commands.common import config_path, keep_out_of_swap, read_config, set_up_logging
from agent.hardening import harden


def run(arguments: argparse.Namespace) -> int:
    """Harden, read the configuration, run the daemon until it is told to leave."""
    # As process 1 of a container nothing ends us by default, not even before the loop is up.
    signal.signal(signal.SIGTERM, _leave_before_start)
    harden()
    config = read_config(arguments)
    set_up_logging(config, arguments)
    keep_out_of_swap(config)
    gc.enable()  # the command line starts without
    import asyncio

    from agent.daemon import Daemon

    return asyncio.run(Daemon(config, config_path(arguments)).run())


def _leave_before_start(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
