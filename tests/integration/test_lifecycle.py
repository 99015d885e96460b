"""The daemon as a process: it starts, says how it is, reloads whole or not at all, and leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.demo.stage import free_port
from tests.demo.programs import until

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Agent:
    """One `jules-agent run` with its own folders; `config` may be changed and rewritten."""

    def __init__(self, folder: Path, memory: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.file = folder / "agent.yaml"
        self.config: dict[str, Any] = {
            "state_dir": str(folder / "state"),
            "grace_period": "5s",
            "log": {"format": "json"},
            "web": {"listen": self.url.removeprefix("http://")},
            "secrets": {
                "directory": str(memory / "trading"),
                "local": {"path": str(folder / "s.enc"), "key_file": str(folder / "key")},
                "items": [{"name": "database/main"}],
                "check_interval": "200ms",
            },
            "bundles": {"enabled": False},
            "alerts": {"targets": [{"url": "http://127.0.0.1:9/metrics"}]},
        }
        self.write()
        self.command("secrets", "new-key", str(folder / "key"))
        self.put("one")
        self.process: subprocess.Popen[bytes] | None = None

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump(self.config))

    def command(self, *arguments: str, value: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "agent", *arguments],
            input=value,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def put(self, password: str) -> None:
        value = json.dumps({"username": "desk", "password": password}).encode()
        done = self.command(
            "secrets", "put", "database/main", "--config", str(self.file), value=value
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent", "run", "--config", str(self.file)],
                stdout=log,
                stderr=log,
            )
        until("the agent to be ready", lambda: self.get("/readyz")[0] == 200)

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with _OPENER.open(self.url + path, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 0, b""

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.get("/api/v1/status")[1])
        return status

    def condition(self, name: str) -> dict[str, Any] | None:
        for condition in self.status()["conditions"]:
            if condition["name"] == name:
                return dict(condition)
        return None

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ends(self) -> int:
        assert self.process is not None
        return self.process.wait(20)

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()


@pytest.fixture
def agent(tmp_path: Path, tmpfs: Path) -> Iterator[Agent]:
    made = Agent(tmp_path, tmpfs)
    made.start()
    yield made
    assert made.process is not None
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_sigterm_drains_and_exits_0(agent: Agent) -> None:
    agent.signal(signal.SIGTERM)
    assert agent.ends() == 0
    assert "agent has left" in agent.log()


def test_a_second_sigterm_leaves_at_once(agent: Agent) -> None:
    agent.signal(signal.SIGSTOP)  # both are pending when it goes on
    agent.signal(signal.SIGTERM)
    agent.signal(signal.SIGINT)
    agent.signal(signal.SIGCONT)
    assert agent.ends() in (0, 130)


def test_what_was_published_stays_for_the_trader_after_the_agent_left(
    agent: Agent, tmpfs: Path
) -> None:
    agent.signal(signal.SIGTERM)
    agent.ends()
    tree = json.loads((tmpfs / "trading" / "database" / "main.json").read_bytes())
    assert tree["password"] == "one"


def test_a_rotation_in_the_store_is_followed(agent: Agent, tmpfs: Path) -> None:
    agent.put("two")
    path = tmpfs / "trading" / "database" / "main.json"
    until("the new password", lambda: json.loads(path.read_bytes())["password"] == "two")


def test_sighup_applies_a_changed_file(agent: Agent) -> None:
    agent.config["secrets"]["items"].append({"name": "database/main", "path": "copy.json"})
    agent.write()
    agent.signal(signal.SIGHUP)
    until("two secrets", lambda: len(agent.status()["secrets"]["items"]) == 2)
    condition = agent.condition("config")
    assert condition is None or condition["ok"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"alerts": {"interval": "soon"}}, "alerts.interval"),
        ({"environment": "staging"}, "environment"),
        ({"alerts": {"rules": ["/nowhere/*.yml"]}}, "/nowhere"),
    ],
)
def test_sighup_with_a_bad_file_changes_nothing_and_says_why(
    agent: Agent, change: dict[str, Any], told: str
) -> None:
    agent.config["secrets"]["items"].append({"name": "database/main", "path": "copy.json"})
    agent.config.update(change)
    agent.write()
    agent.signal(signal.SIGHUP)
    until("the refusal", lambda: agent.condition("config") is not None)
    condition = agent.condition("config")
    assert condition is not None
    assert told in condition["reason"]
    assert condition["remedy"]
    assert len(agent.status()["secrets"]["items"]) == 1
    assert agent.get("/readyz")[0] == 200


def test_the_reload_command_ends_with_2_when_refused(agent: Agent) -> None:
    agent.config["alerts"] = {"interval": "soon"}
    good = agent.folder / "good.yaml"
    good.write_text(agent.file.read_text())
    agent.write()
    done = agent.command("reload", "--config", str(good))
    assert done.returncode == 2
    assert b"alerts.interval" in done.stderr


def test_a_second_agent_on_the_same_state_folder_is_refused(agent: Agent) -> None:
    done = agent.command("run", "--config", str(agent.file))
    assert done.returncode == 7
    assert b"already under way" in done.stderr


def test_status_and_a_stopped_agent_have_their_exit_codes(agent: Agent) -> None:
    done = agent.command("status", "--config", str(agent.file))
    assert done.returncode == 0, done.stderr
    assert b"ready" in done.stdout
    agent.signal(signal.SIGTERM)
    agent.ends()
    done = agent.command("status", "--config", str(agent.file))
    assert done.returncode == 7
    assert b"what to do" in done.stderr


def test_a_store_that_vanishes_leaves_the_agent_alive_and_ready(agent: Agent) -> None:
    (agent.folder / "s.enc").rename(agent.folder / "away")
    until("the store to be missed", lambda: not (agent.condition("secrets-fresh") or {})["ok"])
    assert agent.get("/livez")[0] == 200
    assert agent.get("/readyz")[0] == 200


def test_the_process_is_closed_to_its_neighbours(agent: Agent) -> None:
    assert agent.process is not None
    if os.geteuid() == 0:
        owner = os.stat(f"/proc/{agent.process.pid}/environ").st_uid
        assert owner == 0
    else:
        with pytest.raises(PermissionError), open(f"/proc/{agent.process.pid}/environ", "rb") as f:
            f.read()
    limits = Path(f"/proc/{agent.process.pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4] == "0"
