"""The receiver accepts and refuses what PagerDuty and Slack accept and refuse."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from agent.demo.receiver import pagerduty_errors, slack_error
from tests.demo.programs import call, call_json, program

HOOK = "/services/T0DEMO/B0DEMO/abcdef0123"


@pytest.fixture(scope="module")
def receiver() -> Iterator[str]:
    with program("agent.demo.receiver") as (url, _process):
        yield url


def trigger(**changes: Any) -> dict[str, Any]:
    event = {
        "routing_key": "R" * 32,
        "event_action": "trigger",
        "dedup_key": "k",
        "payload": {"summary": "latency <high>", "severity": "critical", "source": "pod-1"},
    }
    return {**event, **changes}


def test_a_sound_event_is_accepted_with_its_dedup_key(receiver: str) -> None:
    status, answer = call_json(f"{receiver}/v2/enqueue", json.dumps(trigger()).encode())
    assert (status, answer["status"], answer["dedup_key"]) == (202, "success", "k")


def test_an_event_without_dedup_key_is_given_one(receiver: str) -> None:
    event = trigger()
    del event["dedup_key"]
    status, answer = call_json(f"{receiver}/v2/enqueue", json.dumps(event).encode())
    assert status == 202
    assert answer["dedup_key"]


def test_a_resolve_needs_no_payload(receiver: str) -> None:
    event = {"routing_key": "R" * 32, "event_action": "resolve", "dedup_key": "k"}
    assert call_json(f"{receiver}/v2/enqueue", json.dumps(event).encode())[0] == 202


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"routing_key": "short"}, "routing_key"),
        ({"event_action": "fire"}, "event_action"),
        ({"dedup_key": "x" * 256}, "dedup_key"),
        ({"event_action": "resolve", "dedup_key": None}, "dedup_key"),
        ({"payload": None}, "payload"),
        ({"payload": {"summary": "", "severity": "critical", "source": "a"}}, "summary"),
        ({"payload": {"summary": "x" * 1025, "severity": "critical", "source": "a"}}, "summary"),
        ({"payload": {"summary": "x", "severity": "fatal", "source": "a"}}, "severity"),
        ({"payload": {"summary": "x", "severity": "info"}}, "source"),
        (
            {"payload": {"summary": "x", "severity": "info", "source": "a", "links": []}},
            "links",
        ),
    ],
)
def test_what_pagerduty_refuses_is_named(changes: dict[str, Any], named: str) -> None:
    errors = pagerduty_errors(trigger(**changes))
    assert any(named in error for error in errors)


def test_a_refused_event_is_400_and_not_listed(receiver: str) -> None:
    before = len(call_json(f"{receiver}/events")[1]["events"])
    status, answer = call_json(f"{receiver}/v2/enqueue", b"not json")
    assert (status, answer["status"]) == (400, "invalid event")
    assert answer["errors"]
    assert len(call_json(f"{receiver}/events")[1]["events"]) == before


def test_the_limits_themselves_are_accepted() -> None:
    payload = {"summary": "x" * 1024, "severity": "info", "source": "a"}
    assert pagerduty_errors(trigger(dedup_key="x" * 255, payload=payload)) == []


def test_slack_answers_ok_in_plain_text(receiver: str) -> None:
    status, kind, text = call(f"{receiver}{HOOK}", json.dumps({"text": "hello"}).encode())
    assert (status, text) == (200, "ok")
    assert kind.startswith("text/plain")


def test_slack_refuses_in_its_own_words(receiver: str) -> None:
    assert call(f"{receiver}{HOOK}", b"nonsense")[::2] == (400, "invalid_payload")
    assert call(f"{receiver}{HOOK}", b"{}")[::2] == (400, "no_text")
    assert call(f"{receiver}/services/wrong", b"{}")[::2] == (404, "no_service")
    assert slack_error({"text": "x" * 40_001}) == "msg_too_long"
    assert slack_error({"blocks": [{}] * 51}) == "invalid_blocks"
    assert slack_error({"blocks": [{}] * 50}) is None


def test_events_are_listed_in_order_with_their_times_and_without_the_key() -> None:
    with program("agent.demo.receiver") as (url, _process):
        call(f"{url}/v2/enqueue", json.dumps(trigger()).encode())
        call(f"{url}{HOOK}", b'{"text": "second"}')
        text = call(f"{url}/events")[2]
        events = json.loads(text)["events"]
        assert [event["service"] for event in events] == ["pagerduty", "slack"]
        assert events[0]["received_at"] <= events[1]["received_at"]
        assert "R" * 32 not in text
        page = call(f"{url}/")[2]
        assert "latency &lt;high&gt;" in page
        assert "second" in page


def test_sigterm_ends_it_with_0() -> None:
    with program("agent.demo.receiver") as (_url, process):
        process.send_signal(signal.SIGTERM)
        assert process.wait(10.0) == 0
