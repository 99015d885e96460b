"""`alerts test` and `alerts silence`, typed to a running agent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.demo.stage import free_port
from tests.alerts.made import ROUTING_KEY
from tests.demo.programs import until
from tests.faults.receiver import FaultyReceiver


class Typed:
    """An agent of alerts alone, and what an operator types to it."""

    def __init__(self, folder: Path, receiver: FaultyReceiver) -> None:
        self.receiver = receiver
        (folder / "key").write_text(ROUTING_KEY)
        rules = folder / "rules.yml"
        rules.write_text("groups: [{name: g, rules: [{alert: A, expr: absent_thing > 0}]}]")
        self.config = folder / "agent.yaml"
        tree = {
            "state_dir": str(folder / "state"),
            "web": {"listen": f"127.0.0.1:{free_port()}"},
            "secrets": {"enabled": False},
            "bundles": {"enabled": False},
            "alerts": {
                "rules": [str(rules)],
                "targets": [],
                "pagerduty": {
                    "url": receiver.url("/v2/enqueue"),
                    "routing_key": {"file": str(folder / "key")},
                },
                "webhooks": [{"name": "tickets", "url": receiver.url("/hook")}],
            },
        }
        self.config.write_text(yaml.safe_dump(tree))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "agent", *words, "--config", str(self.config)]

    def type(self, *words: str, code: int = 0) -> Any:
        done = subprocess.run(
            [*self.command(*words), "--json"], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout or done.stderr)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    with FaultyReceiver() as receiver:
        made = Typed(tmp_path_factory.mktemp("typed"), receiver)
        process = subprocess.Popen(
            made.command("run"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            socket = made.config.parent / "state" / "admin.sock"
            until("the agent", socket.exists, 30.0)
            yield made
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("destination", ["pagerduty", "tickets"])
def test_a_marked_test_goes_all_the_way_and_is_closed_again(typed: Typed, destination: str) -> None:
    before = len(typed.receiver.accepted)
    told = typed.type("alerts", "test", destination)
    assert told["accepted"] is True
    assert told["attempts"] == 1
    until("the resolve", lambda: len(typed.receiver.accepted) == before + 2)
    first, second = map(json.dumps, typed.receiver.accepted[before:])
    assert "[TEST]" in first
    assert "resolve" in second


def test_a_test_that_is_refused_says_what_the_receiver_said(typed: Typed) -> None:
    typed.receiver.plan(400)
    told = typed.type("alerts", "test", "tickets", code=1)
    assert told["accepted"] is False
    assert told["end"] == "undeliverable"
    assert "400" in told["error"]


def test_a_destination_that_is_not_there_is_named_with_those_that_are(typed: Typed) -> None:
    told = typed.type("alerts", "test", "pager", code=2)
    assert "pagerduty, tickets" in told["remedy"]


def test_a_silence_is_added_listed_and_ended(typed: Typed) -> None:
    made = typed.type(
        "alerts", "silence", "add", "alertname=Slow", "desk=~fx.*", "--duration", "2h",
        "--comment", "known", "--by", "ann",
    )  # fmt: skip
    (listed,) = typed.type("alerts", "silence", "list")
    assert listed["id"] == made["id"]
    assert (listed["by"], listed["comment"], listed["state"]) == ("ann", "known", "active")
    assert typed.type("alerts", "silence", "expire", made["id"])["state"] == "expired"
    assert typed.type("alerts", "silence", "list") == []
    assert typed.type("alerts", "silence", "expire", made["id"], code=2)["exit_code"] == 2
