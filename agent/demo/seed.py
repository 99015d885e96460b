"""Fill an empty installation with the demo's secrets and first bundle: a compose file's first step.

    python -m agent.demo.seed --receiver http://receiver:9911

Runs the very commands that an operator would type, in order, and prints each. What is already there
is left alone, so that a second start changes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from agent.config import Config
from agent.configload import load_config
from agent.demo.values import secret_values
from agent.errors import AgentError
from agent.secrets import verbs

FIRST = Path(__file__).parent / "bundles" / "v2025-07-06"


def seed(config_path: Path, receiver: str) -> int:
    """Put what is missing; the first exit code that is not 0, else 0.

    Raises:
        AgentError: the configuration or the encrypted store cannot be used.
    """
    config = load_config(config_path)
    for command, value in _missing(config, receiver):
        print(f"$ jules-agent {' '.join(command)}", flush=True)
        code = _run([*command, "--config", str(config_path)], value)
        if code:
            return code
    return 0


def _missing(config: Config, receiver: str) -> list[tuple[list[str], bytes | None]]:
    wanted: list[tuple[list[str], bytes | None]] = []
    key = config.secrets.local.key_file
    if key is not None and not key.exists():
        wanted.append((["secrets", "new-key", str(key)], None))
    there = set()
    if config.secrets.local.path.exists():
        there = {str(entry.name) for entry in verbs.list_names(config.secrets)}
    for name, kind, value in secret_values(receiver):
        if name not in there:
            wanted.append((["secrets", "put", name, "--type", kind], json.dumps(value).encode()))
    store = config.bundles.store
    if store and store.path and not (store.path / "channels" / f"{config.channel}.json").exists():
        wanted.append((["bundle", "publish", str(FIRST)], None))
    return wanted


def _run(command: list[str], value: bytes | None) -> int:
    """One command as its own process, `value` on its standard input."""
    whole = [sys.executable, "-m", "agent", *command]
    return subprocess.run(whole, input=value or b"", check=False).returncode


def main(argv: list[str] | None = None) -> int:
    """Seed, then exit."""
    parser = argparse.ArgumentParser(prog="python -m agent.demo.seed", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("/etc/jules-agent/agent.yaml"))
    parser.add_argument("--receiver", required=True, metavar="URL")
    arguments = parser.parse_args(argv)
    try:
        return seed(arguments.config, arguments.receiver)
    except AgentError as error:
        print(f"seed: {error.told()}", flush=True)
        return int(error.exit_code)


if __name__ == "__main__":
    raise SystemExit(main())
