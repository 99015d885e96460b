"""The trader is told of a flip once, by real processes, servers and signals; a no puts it back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.bundles.errors import RolloutError
from agent.bundles.hooks import Flip, tell
from agent.bundles.model import State
from agent.configrollouts import OnFlip
from agent.units import Version
from tests.bundles.agents import FIRING, Place, ended, live, until
from tests.bundles.made import published

FLIP = Flip(Version("v2"), Version("v1"), Path("/models/bundles/v2"))


def script(tmp: Path, body: str) -> list[str]:
    path = tmp / "hook.sh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return [str(path)]


def test_a_command_gets_the_versions_and_nothing_of_the_agent_s_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for others")
    hook = OnFlip(command=tuple(script(tmp_path, f"env > {tmp_path}/seen")))
    tell(hook, FLIP)
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines())
    assert seen["JULES_VERSION"] == "v2"
    assert seen["JULES_PREVIOUS_VERSION"] == "v1"
    assert seen["JULES_BUNDLE"] == "/models/bundles/v2"
    assert "not for others" not in seen.values()


def test_arguments_are_no_shell(tmp_path: Path) -> None:
    hook = OnFlip(command=("/bin/sh", "-c", 'test "$1" = "; touch x"', "sh", "; touch x"))
    tell(hook, FLIP)


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    hook = OnFlip(command=tuple(script(tmp_path, "echo first; echo 'cannot load' >&2; exit 3")))
    with pytest.raises(RolloutError, match="ended with 3: cannot load"):
        tell(hook, FLIP)
    with pytest.raises(RolloutError, match="No such file"):
        tell(OnFlip(command=("/nothing/here",)), FLIP)


def test_a_command_that_hangs_is_killed_at_the_deadline_with_its_children(tmp_path: Path) -> None:
    body = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(RolloutError, match="longer than"):
        tell(OnFlip(command=tuple(script(tmp_path, body)), deadline=0.5), FLIP)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":  # dead; whoever inherited it has not looked yet
            return
        time.sleep(0.01)
    raise AssertionError("the child lives on")


def test_a_signal_reaches_the_process_that_the_file_names(tmp_path: Path) -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(42))\n"
        "print('ready', flush=True)\n"
        "signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{process.pid}\n")
        hook = OnFlip(signal={"name": "SIGUSR1", "pid_file": pid_file})
        assert tell(hook, FLIP) == f"SIGUSR1 to process {process.pid}"
        assert process.wait(10) == 42
    with pytest.raises(RolloutError, match="gets no signal"):
        tell(hook, FLIP)
    for bad in ("", "-1", "1", "0", "trader"):
        pid_file.write_text(bad)
        with pytest.raises(RolloutError):
            tell(hook, FLIP)


class Listener:
    """An HTTP server that keeps what is posted."""

    def __init__(self, status: int) -> None:
        posts: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.send_header("Location", "/again")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: Any) -> None:
                """Quiet."""

        self.posts = posts
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/reload"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.parametrize("status", [200, 204, 302, 500])
def test_a_post_is_made_once_and_only_2xx_is_a_yes(status: int) -> None:
    listener = Listener(status)
    try:
        hook = OnFlip(url=listener.url)
        if status < 300:
            tell(hook, FLIP)
        else:
            with pytest.raises(RolloutError, match=str(status)):
                tell(hook, FLIP)
    finally:
        listener.close()
    assert listener.posts == [{"version": "v2", "previous": "v1", "bundle": "/models/bundles/v2"}]
    with pytest.raises(RolloutError, match="127.0.0.1"):
        tell(hook, FLIP)


@pytest.mark.parametrize(
    "options",
    [{}, {"command": ["/bin/true"], "url": "http://a/"}, {"command": ["true"]}, {"command": []}],
)
def test_a_hook_that_cannot_be_meant_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OnFlip(**options)


async def test_every_flip_is_told_once_forward_and_back(place: Place) -> None:
    assert place.metrics
    log = place.tmp / "told"
    body = f'echo "$JULES_PREVIOUS_VERSION-$JULES_VERSION" >> {log}'
    place.options["on_flip"] = {"command": script(place.tmp, body)}
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        assert not log.exists()  # no trader yet
        published(place.tmp, "v2", note="2")
        entry = await ended(job, "v2", "ACTIVE")
        assert [step["step"] for step in entry["steps"]][3:5] == ["flip", "on_flip"]
        place.bake = 60.0
        job.prepare(place.section())()
        published(place.tmp, "v3", note="3")
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
        place.metrics.results = (FIRING,)
        await ended(job, "v3", "ROLLED_BACK")
        place.metrics.results = ()
        await job.rollback("v1", actor="operator", reason="?")
    assert log.read_text().split() == ["v1-v2", "v2-v3", "v3-v2", "v2-v1"]


async def test_a_hook_that_fails_puts_the_old_version_back(place: Place) -> None:
    place.options["on_flip"] = {"command": script(place.tmp, 'test "$JULES_VERSION" != v2')}
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        entry = await ended(job, "v2", "ROLLED_BACK")
        assert "on_flip" in entry["reason"]
        assert [step["step"] for step in entry["steps"]][3:] == [
            *("flip", "on_flip", "rollback", "told_back")
        ]
        assert live(place) == "v1"


async def test_a_hook_that_was_begun_before_a_kill_is_not_begun_again(place: Place) -> None:
    assert place.metrics
    log = place.tmp / "told"
    place.options["on_flip"] = {"command": script(place.tmp, f"echo x >> {log}")}
    place.bake = 60.0
    published(place.tmp, "v1")
    async with place.agent() as job:
        await ended(job, "v1", "ACTIVE")
        published(place.tmp, "v2", note="2")
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
    async with place.agent() as job:
        await until("a bake", lambda: (job.snapshot()["rollout"] or {}).get("bake"))
        assert job.tools.history.recent()[0].state is State.DEPLOYING
        await asyncio.sleep(0)
    assert log.read_text() == "x\n"
