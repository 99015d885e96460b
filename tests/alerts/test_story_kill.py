"""The agent is killed with a page in its hands, and the page arrives; what it logs is no secret."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.state import StateDB
from tests.alerts.made import HOOK_PATH, ROUTING_KEY
from tests.demo.programs import until
from tests.faults.receiver import FaultyReceiver

RULES = """
groups:
  - name: trading
    rules:
      - {alert: Tripped, expr: trips > 0, labels: {severity: critical}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stage:
    """A state folder, a target, and agents that come and go."""

    def __init__(self, folder: Path, target: FaultyReceiver, receiver: str) -> None:
        self.folder, self.target = folder, target
        self.log = folder / "log"
        (folder / "rules.yml").write_text(RULES)
        (folder / "key").write_text(ROUTING_KEY)
        (folder / "hook").write_text(receiver + HOOK_PATH)
        section = {
            "targets": [{"job": "trader", "url": target.url("/metrics")}],
            "interval": "100ms",
            "timeout": "1s",
            "rules": [str(folder / "rules.yml")],
            "pagerduty": {
                "url": f"{receiver}/v2/enqueue",
                "routing_key": {"file": str(folder / "key")},
                "timeout": "1s",
            },
            "slack": {"webhook_url": {"file": str(folder / "hook")}, "timeout": "1s"},
        }
        (folder / "config.json").write_text(json.dumps(section))

    def metrics(self, text: str) -> None:
        self.target.answer = lambda handler: handler.reply(200, text.encode())

    @contextmanager
    def agent(self) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "tests.alerts.runner", str(self.folder)]
        with (
            self.log.open("a") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "runs\n", self.log.read_text()
                yield process
            finally:
                process.kill()

    def waiting(self) -> list[tuple[str, str]]:
        """Destination and status of what the state file says is undelivered."""
        if not (self.folder / "state.db").exists():
            return []
        db = StateDB(self.folder / "state.db")
        try:
            rows = db.query("SELECT destination, status FROM outbox WHERE end IS NULL ORDER BY id")
            return [(row["destination"], row["status"]) for row in rows]
        finally:
            db.close()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def stage(tmp_path: Path, port: int) -> Iterator[Stage]:
    with FaultyReceiver() as target:
        yield Stage(tmp_path, target, f"http://127.0.0.1:{port}")


def actions(receiver: FaultyReceiver) -> list[str]:
    return [event["event_action"] for event in receiver.accepted if "event_action" in event]


def messages(receiver: FaultyReceiver) -> list[str]:
    return [event["text"] for event in receiver.accepted if "text" in event]


def test_a_page_queued_while_the_receiver_was_down_survives_kill_9_and_is_delivered_once(
    stage: Stage, port: int
) -> None:
    stage.metrics("trips 1\n")
    with stage.agent() as agent:
        until("the queued page", lambda: len(stage.waiting()) == 2)
        os.kill(agent.pid, signal.SIGKILL)
        agent.wait()
    assert stage.waiting() == [("pagerduty", "firing"), ("slack", "firing")]
    stage.metrics("trips 1\n")
    with FaultyReceiver(port) as receiver, stage.agent() as agent:
        until("delivery", lambda: len(receiver.accepted) == 2)
        until("an empty outbox", lambda: stage.waiting() == [])
        scrapes = len(stage.target.requests)
        until("more ticks", lambda: len(stage.target.requests) > scrapes + 5)
        assert actions(receiver) == ["trigger"]
        assert len(messages(receiver)) == 1
        stage.metrics("trips 0\n")
        until("the resolve", lambda: len(receiver.accepted) == 4)
        assert actions(receiver) == ["trigger", "resolve"]
        keys = {event["dedup_key"] for event in receiver.accepted if "dedup_key" in event}
        assert len(keys) == 1


def test_an_alert_that_ended_while_the_receiver_was_down_is_still_told_and_resolved(
    stage: Stage, port: int
) -> None:
    stage.metrics("trips 1\n")
    with stage.agent() as agent:
        until("the page", lambda: len(stage.waiting()) == 2)
        stage.metrics("trips 0\n")
        until("the resolve", lambda: len(stage.waiting()) == 4)
        os.kill(agent.pid, signal.SIGKILL)
        agent.wait()
    with FaultyReceiver(port) as receiver, stage.agent():
        until("delivery", lambda: len(receiver.accepted) == 4)
        assert actions(receiver) == ["trigger", "resolve"]


def test_killed_again_and_again_with_a_receiver_that_fails_half_the_time_loses_nothing(
    stage: Stage, port: int
) -> None:
    """Five alerts, one after another, each with a kill somewhere in its way."""
    rules = "groups: [{name: g, rules: [{alert: T, expr: t > 0, labels: {severity: critical}}]}]"
    (stage.folder / "rules.yml").write_text(rules)
    with FaultyReceiver(port) as receiver:
        text = ""
        for number in range(5):
            text += f't{{n="{number}"}} 1\n'
            stage.metrics(text)
            receiver.plan("silent", 503)
            with stage.agent() as agent:
                seen = len(receiver.requests)
                until("an attempt", lambda n=seen: len(receiver.requests) > n)  # type: ignore[misc]
                os.kill(agent.pid, signal.SIGKILL)
                agent.wait()
        with stage.agent():
            until("every page", lambda: len({*receiver.keys("trigger")}) == 5, 40.0)
            until("an empty outbox", lambda: stage.waiting() == [], 40.0)


def test_sigterm_delivers_what_is_queued_before_it_leaves(stage: Stage, port: int) -> None:
    stage.metrics("trips 1\n")
    with stage.agent() as agent:
        until("the queued page", lambda: len(stage.waiting()) == 2)
        with FaultyReceiver(port) as receiver:
            os.kill(agent.pid, signal.SIGTERM)
            assert agent.wait(timeout=20) == 0
            assert len(receiver.accepted) == 2
    assert stage.waiting() == []


@pytest.mark.parametrize("fault", [403, 429, 503, "hang", "reset", "half"])
def test_no_credential_is_ever_logged_or_stored(stage: Stage, port: int, fault: int | str) -> None:
    stage.metrics("trips 1\n")
    with FaultyReceiver(port) as receiver:
        receiver.always = fault
        with stage.agent() as agent:
            until("two attempts", lambda: len(receiver.requests) >= 2)
            until("their mention", lambda: stage.log.read_text().count("will try again") >= 2)
            os.kill(agent.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(timeout=5)
    everything: list[Any] = [stage.log, *stage.folder.glob("state.db*")]
    for file in everything:
        raw = file.read_bytes()
        assert ROUTING_KEY.encode() not in raw, file
        assert b"verysecretpathofthehook" not in raw, file
