"""`jules-agent demo`: the whole story on one machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.demo.story import play


def demo(arguments: argparse.Namespace) -> int:
    """Play it; see `agent.demo.story`."""
    keep = Path(arguments.keep).absolute() if arguments.keep else None
    return play(once=arguments.once, port=arguments.port, keep=keep)
