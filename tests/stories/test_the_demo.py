"""The demo, played to its end as a stranger would: every step happens, and nothing is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = (
    "secrets stored",
    "v1 published",
    "init",
    "trader up",
    "v1 live",
    "secret rotated",
    "v2 published",
    "v2 live",
    "bake",
    "latency pending",
    "latency page",
    "rolled back",
    "damaged v3 refused",
    "breaker page",
    "latency resolved",
    "weight",
)


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "agent", "demo", "--port", "0", *arguments]


def leftovers() -> set[str]:
    mine = f"jules-agent-demo-{os.getuid()}-*"  # another user may play it at the same time
    return {str(path) for root in ("/dev/shm", "/tmp") for path in Path(root).glob(mine)}


@pytest.mark.timeout(400)
def test_every_step_happens_and_nothing_is_left() -> None:
    before = leftovers()
    done = subprocess.run(demo("--once"), capture_output=True, text=True, timeout=380, check=False)
    told = done.stdout
    assert done.returncode == 0, told + done.stderr
    happened = re.findall(r"^ *[\d.]+ s  ok  (.{22}) ", told, flags=re.MULTILINE)
    assert tuple(name.strip() for name in happened) == STEPS
    assert "Traceback" not in told + done.stderr
    assert leftovers() <= before


def test_ctrl_c_in_the_middle_leaves_nothing_running_and_no_folder() -> None:
    before = leftovers()
    with subprocess.Popen(demo("--once"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "ok  trader up" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert leftovers() <= before


def test_a_port_that_is_taken_is_told_before_anything_is_started() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "agent", "demo", "--once", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr


def test_what_the_demo_keeps_holds_no_secret_in_the_clear(tmp_path: Path) -> None:
    """The values are random and known to the store alone: whatever the published files hold must
    be found nowhere in the kept folder."""
    work = tmp_path / "kept"
    environment = {**os.environ, "XDG_RUNTIME_DIR": ""}
    with subprocess.Popen(
        demo("--once", "--keep", str(work)), stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "ok  v1 live" in line:
                break
        [secrets] = [
            path for path in Path("/dev/shm").glob("jules-agent-demo-*") if _of(path, process.pid)
        ]
        values = [
            value
            for path in (secrets / "secrets" / "..data").rglob("*.json")
            if path.name != ".index.json"
            for value in re.findall(r'"([A-Za-z0-9_-]{16,})"', path.read_text())
        ]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert len(values) >= 3
    for path in work.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [value for value in values if value.encode() in data], path


def _of(folder: Path, pid: int) -> bool:
    """Whether the story `pid` holds the folder's lock open."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(fd) == str(folder / "story.lock"):
                return True
        except OSError:
            continue
    return False
