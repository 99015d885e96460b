"""The trading system's own calls, against a receiver; the faults they once had stay mended."""

from __future__ import annotations

import asyncio
import inspect
import time
from pathlib import Path
from typing import Any

import pytest

from agent.alerts import manager as module
from agent.alerts.manager import (
    Alert,
    AlertManager,
    AlertSeverity,
    AlertStatus,
    create_alert_manager,
)
from agent.errors import BusyError
from tests.alerts.made import HOOK_PATH, ROUTING_KEY
from tests.faults.clock import FakeClock
from tests.faults.receiver import FaultyReceiver


def manager(receiver: FaultyReceiver, clock: FakeClock | None = None) -> AlertManager:
    return AlertManager(
        pagerduty_integration_key=ROUTING_KEY,
        slack_webhook_url=receiver.url(HOOK_PATH),
        pagerduty_url=receiver.url("/v2/enqueue"),
        clock=clock,
    )


def alert(status: AlertStatus = AlertStatus.FIRING, **labels: str) -> Alert:
    return Alert(
        alert_name="Odd",
        severity=AlertSeverity.WARNING,
        status=status,
        message="something is odd",
        description="look at it",
        service="risk",
        team="trading",
        timestamp=time.time(),
        labels=labels,
        annotations={},
    )


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts."""
    monkeypatch.setattr(module, "pause", lambda *_: 0.0)


async def test_each_call_of_the_scripts_reaches_both_and_says_so() -> None:
    with FaultyReceiver() as receiver:
        made = manager(receiver)
        for result in (
            await made.send_critical_latency_alert("risk_enforcement", 35.5),
            await made.send_audit_log_error_alert(3, "Disk full"),
            await made.send_circuit_breaker_alert("var_enforcement", 2),
            await made.send_risk_limit_breach_alert("var_99_limit", 250000, 200000),
        ):
            assert result == {"pagerduty": True, "slack": True}
    pages = [event for event in receiver.accepted if "payload" in event]
    assert [page["payload"]["class"] for page in pages] == [
        "CriticalLatencyP99High",
        "CriticalAuditLogWriteErrors",
        "CriticalCircuitBreakerTripped",
        "CriticalRiskLimitBreach",
    ]
    assert pages[0]["payload"]["custom_details"]["labels"]["latency_us"] == "35.5"
    assert [link["text"] for link in pages[0]["links"]] == ["Runbook", "Dashboard"]
    assert "$250,000" in pages[3]["payload"]["custom_details"]["annotations"]["description"]


async def test_a_send_that_failed_suppresses_nothing() -> None:
    with FaultyReceiver() as receiver:
        made = manager(receiver)
        receiver.always = 503
        assert await made.send_circuit_breaker_alert("a", 1) == {
            "pagerduty": False,
            "slack": False,
        }
        receiver.always = None
        assert await made.send_circuit_breaker_alert("a", 1) == {"pagerduty": True, "slack": True}


async def test_only_the_destination_that_lacks_it_is_told_again() -> None:
    with FaultyReceiver() as receiver, FaultyReceiver() as other:
        made = AlertManager(
            ROUTING_KEY, other.url(HOOK_PATH), pagerduty_url=receiver.url("/v2/enqueue")
        )
        receiver.always = 400
        assert await made.send_circuit_breaker_alert("a", 1) == {"pagerduty": False, "slack": True}
        receiver.always = None
        assert await made.send_circuit_breaker_alert("a", 1) == {"pagerduty": True, "slack": True}
        assert len(other.accepted) == 1
        assert await made.send_circuit_breaker_alert("a", 1) == {"deduplicated": True}


async def test_breaker_b_is_not_hidden_by_breaker_a_and_a_new_count_is_no_new_alert() -> None:
    with FaultyReceiver() as receiver:
        made = manager(receiver)
        await made.send_circuit_breaker_alert("a", 1)
        assert await made.send_circuit_breaker_alert("b", 1) == {"pagerduty": True, "slack": True}
        assert await made.send_circuit_breaker_alert("a", 2) == {"deduplicated": True}
        assert len(set(receiver.keys("trigger"))) == 2


async def test_after_five_minutes_it_is_told_again() -> None:
    clock = FakeClock()
    with FaultyReceiver() as receiver:
        made = manager(receiver, clock)
        await made.send_circuit_breaker_alert("a", 1)
        clock.tick(299.0)
        assert await made.send_circuit_breaker_alert("a", 1) == {"deduplicated": True}
        clock.tick(1.0)
        assert "pagerduty" in await made.send_circuit_breaker_alert("a", 1)
        assert len(set(receiver.keys("trigger"))) == 1


async def test_firing_resolved_and_firing_again_within_the_window_are_three_messages() -> None:
    with FaultyReceiver() as receiver:
        made = manager(receiver)
        for status in (AlertStatus.FIRING, AlertStatus.RESOLVED, AlertStatus.FIRING):
            assert await made.send_alert(alert(status)) == {"slack": True}
        assert len(receiver.accepted) == 3


async def test_both_destinations_are_spoken_to_at_once() -> None:
    """Each answers only when the other has been asked."""
    with FaultyReceiver() as receiver:
        both = asyncio.Event()
        loop = asyncio.get_running_loop()
        asked: list[str] = []

        def answer(handler: Any) -> None:
            asked.append(handler.path)
            if len(asked) == 2:
                loop.call_soon_threadsafe(both.set)
            asyncio.run_coroutine_threadsafe(both.wait(), loop).result(10.0)
            if handler.path.startswith("/services/"):
                handler.reply(200, b"ok")
            else:
                handler.reply(202, b'{"status":"success"}')

        receiver.answer = answer
        made = manager(receiver)
        assert await made.send_circuit_breaker_alert("a", 1) == {"pagerduty": True, "slack": True}


async def test_one_failed_attempt_is_tried_again_and_a_refusal_for_good_is_not() -> None:
    with FaultyReceiver() as receiver:
        made = manager(receiver)
        receiver.plan(503)
        assert await made.send_alert(alert()) == {"slack": True}
        receiver.plan(400)
        assert await made.send_alert(alert(x="other")) == {"slack": False}
        assert len(receiver.requests) == 3


async def test_the_environment_names_the_destinations(caplog: pytest.LogCaptureFixture) -> None:
    assert await create_alert_manager({}).send_circuit_breaker_alert("a", 1) == {}
    made = create_alert_manager(
        {"PAGERDUTY_INTEGRATION_KEY": ROUTING_KEY, "SLACK_WEBHOOK_URL": "https://x.invalid/hook"}
    )
    assert set(made._destinations) == {"pagerduty", "slack"}


def test_the_calls_have_the_names_and_arguments_that_the_scripts_use() -> None:
    expected = {
        "send_alert": ["alert"],
        "send_critical_latency_alert": ["service", "latency_us"],
        "send_audit_log_error_alert": ["error_count", "error_message"],
        "send_circuit_breaker_alert": ["breaker_name", "trip_count"],
        "send_risk_limit_breach_alert": ["limit_type", "current_value", "limit_value"],
    }
    for name, arguments in expected.items():
        signature = inspect.signature(getattr(AlertManager, name))
        assert list(signature.parameters)[1:] == arguments
    assert alert().to_dict()["severity"] == "warning"
    assert alert().to_dict()["timestamp_iso"].endswith("+00:00")


def durable(folder: Path, receiver: FaultyReceiver, **more: Any) -> AlertManager:
    return AlertManager(
        pagerduty_integration_key=ROUTING_KEY,
        slack_webhook_url=receiver.url(HOOK_PATH),
        pagerduty_url=receiver.url("/v2/enqueue"),
        state_dir=folder,
        **more,
    )


def test_with_a_state_folder_what_was_not_accepted_goes_with_a_later_call_of_another_process(
    tmp_path: Path,
) -> None:
    with FaultyReceiver() as receiver:
        made = durable(tmp_path, receiver)
        receiver.always = 503
        told = asyncio.run(made.send_circuit_breaker_alert("first", 1))
        assert told == {"pagerduty": False, "slack": False}
        made.close()
        receiver.always = None
        again = durable(tmp_path, receiver)
        told = asyncio.run(again.send_circuit_breaker_alert("second", 1))
        assert told == {"pagerduty": True, "slack": True}
        assert asyncio.run(again.send_circuit_breaker_alert("second", 2)) == {"deduplicated": True}
        again.close()
        pages = [event for event in receiver.accepted if "event_action" in event]
        names = [p["payload"]["custom_details"]["labels"]["breaker_name"] for p in pages]
        assert sorted(names) == ["first", "second"]
        assert len(receiver.accepted) == 4
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert ROUTING_KEY.encode() not in raw


async def test_calls_at_once_with_a_state_folder_are_each_sent_once(tmp_path: Path) -> None:
    with FaultyReceiver() as receiver:
        made = durable(tmp_path, receiver)
        told = await asyncio.gather(
            *(made.send_circuit_breaker_alert(f"b{number}", 1) for number in range(5))
        )
        made.close()
        assert told == [{"pagerduty": True, "slack": True}] * 5
        assert len(receiver.accepted) == 10


async def test_a_refusal_for_good_is_false_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    with FaultyReceiver() as receiver:
        made = durable(tmp_path, receiver, route={"receivers": ["pagerduty"]})
        receiver.plan(400)
        assert await made.send_circuit_breaker_alert("a", 1) == {"pagerduty": False}
        assert await made.send_circuit_breaker_alert("b", 1) == {"pagerduty": True}
        made.close()


async def test_the_calls_follow_a_routing_tree() -> None:
    with FaultyReceiver() as receiver:
        tree = {
            "receivers": ["slack"],
            "routes": [{"matchers": ['breaker_name="big"'], "receivers": ["pagerduty"]}],
        }
        made = AlertManager(
            ROUTING_KEY,
            receiver.url(HOOK_PATH),
            pagerduty_url=receiver.url("/v2/enqueue"),
            route=tree,
        )
        assert await made.send_circuit_breaker_alert("big", 1) == {"pagerduty": True}
        assert await made.send_circuit_breaker_alert("small", 1) == {"slack": True}


def test_one_process_at_a_time_holds_a_state_folder(tmp_path: Path) -> None:
    with FaultyReceiver() as receiver:
        made = durable(tmp_path, receiver)
        with pytest.raises(BusyError):
            durable(tmp_path, receiver)
        made.close()
