"""The init container: local provider, three secrets, bundle already staged; exec to exit.

Wall time and peak memory of the whole process, medians over rounds, beside the bare interpreter and
the imports alone, so that one sees what is Python's and what is ours.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Bar, arguments, compiled, finish, median, timed

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "agent" / "demo" / "bundles" / "v2025-07-06"
SECRETS = ("database/main", "broker/interactive_brokers", "api_key/pagerduty")


def prepare(folder: Path, secrets_directory: Path) -> Path:
    """A configuration whose secrets are stored and whose bundle is staged; its path."""
    agent = [sys.executable, "-m", "agent"]
    key, config = folder / "key", folder / "agent.yaml"
    config.write_text(
        f"state_dir: {folder}/state\n"
        "log: {level: warning}\n"
        "alerts: {enabled: false}\n"
        f"secrets:\n  directory: {secrets_directory}\n"
        f"  local: {{path: {folder}/secrets.enc, key_file: {key}}}\n"
        f"  items: [{', '.join(f'{{name: {name}}}' for name in SECRETS)}]\n"
        f"bundles:\n  root: {folder}/models\n  store: {{path: {folder}/store}}\n"
    )
    subprocess.run([*agent, "secrets", "new-key", str(key)], check=True, capture_output=True)
    for name in SECRETS:
        value = json.dumps({"host": "db", "username": "desk", "password": f"{name}-" + "x" * 32})
        subprocess.run(
            [*agent, "secrets", "put", name, "--config", str(config)],
            input=value.encode(),
            check=True,
            capture_output=True,
        )
    publish = [*agent, "bundle", "publish", str(BUNDLE), "--config", str(config)]
    subprocess.run(publish, check=True, capture_output=True)
    return config


def main() -> int:
    options = arguments(__doc__)
    rounds = 7 if options.quick else 25
    compiled()
    folder = Path(tempfile.mkdtemp(prefix="jules-bench-"))
    memory = Path(tempfile.mkdtemp(prefix="jules-bench-", dir="/dev/shm"))
    try:
        config = prepare(folder, memory / "trading")
        init = [sys.executable, "-m", "agent", "init", "--config", str(config)]
        timed(init)  # stages the bundle and publishes: what is measured is a pod's restart
        ours, fresh, floor = [], [], []
        for _ in range(rounds):
            floor.append(timed([sys.executable, "-c", "pass"]))
            ours.append(timed(init))
            shutil.rmtree(memory / "trading")  # a new pod: its tmpfs is empty
            fresh.append(timed(init))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["chmod", "-R", "u+rwX", str(folder), str(memory)], check=False)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)
    bare = f"bare python {median([run.wall for run in floor]) * 1000:.0f} ms"
    small = f"bare python {median([run.peak for run in floor]):.1f} MB"
    bars = [
        Bar("init, new pod, wall", median([r.wall for r in fresh]) * 1000, 200, "ms", bare),
        Bar("init, new pod, peak memory", max(r.peak for r in fresh), 45, "MB", small),
        Bar("init again, wall", median([r.wall for r in ours]) * 1000, 200, "ms", bare),
        Bar("init again, peak memory", max(r.peak for r in ours), 45, "MB", small),
    ]
    return finish(f"init ({rounds} rounds, medians)", bars, options)


if __name__ == "__main__":
    sys.exit(main())
