"""Calls as receivers of Alertmanager's webhooks know them, and the log as a destination."""

from __future__ import annotations

import math
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from agent.alerts.errors import DeliveryError
from agent.alerts.notifiers import logged
from agent.alerts.notifiers.logged import LogNotifier
from agent.alerts.notifiers.webhook import WebhookNotifier
from agent.confignotify import LogDestination, Webhook
from agent.units import UnixTime
from tests.alerts.made import notification
from tests.faults.receiver import FaultyReceiver

NOW = UnixTime(1_750_000_100.0)
SHAPE = {
    "version": str,
    "groupKey": str,
    "truncatedAlerts": int,
    "status": str,
    "receiver": str,
    "groupLabels": dict,
    "commonLabels": dict,
    "commonAnnotations": dict,
    "externalURL": str,
    "alerts": list,
}


def notifier(secret: str = "", **tree: Any) -> WebhookNotifier:
    config = Webhook.model_validate({"timeout": "2s", **tree})
    return WebhookNotifier(config, lambda _n: secret.encode(), lambda _n, _v: None)


def test_a_call_has_the_shape_of_alertmanager_s_version_4() -> None:
    with FaultyReceiver() as receiver:
        sent = notifier(name="tickets", url=receiver.url("/hook"))
        sent.send(notification("k", value=math.inf), NOW)
        sent.send(notification("k", "resolved"), NOW)
        sent.close()
    firing, resolved = receiver.accepted
    for call in receiver.accepted:
        assert {name: type(value) for name, value in call.items()} == SHAPE
        assert call["version"] == "4"
        assert call["receiver"] == "tickets"
        (alert,) = call["alerts"]
        assert alert["status"] == call["status"]
        assert alert["labels"]["alertname"] == "CriticalLatencyP99High"
        assert alert["annotations"]["bundle"] == "v2025-07-08"
    assert firing["groupKey"] == resolved["groupKey"] == "k"
    assert firing["alerts"][0]["endsAt"] == "0001-01-01T00:00:00Z"
    assert firing["alerts"][0]["annotations"]["value"] == "inf"
    assert resolved["alerts"][0]["endsAt"] == "2025-06-15T15:08:15.000Z"


def test_a_secret_address_is_read_at_every_call_and_never_spoken() -> None:
    with FaultyReceiver() as receiver:
        sent = notifier(receiver.url("/hook-of-secret-path"), url_from={"secret": "u"})
        sent.send(notification(), NOW)
        receiver.plan(404)
        with pytest.raises(DeliveryError) as caught:
            sent.send(notification(), NOW)
        sent.close()
    assert "secret-path" not in caught.value.told()
    away = notifier("http://hooks.example/secret-path", url_from={"secret": "u"})
    with pytest.raises(DeliveryError, match="not https"):
        away.send(notification(), NOW)


@pytest.mark.parametrize(
    ("status", "severity", "level"),
    [
        ("firing", "critical", "error"),
        ("firing", "warning", "warning"),
        ("resolved", "critical", "info"),
    ],
)
def test_the_log_says_what_is_told(
    monkeypatch: pytest.MonkeyPatch, status: str, severity: str, level: str
) -> None:
    written = CapturingLogger()
    monkeypatch.setattr(logged, "_log", written)
    LogNotifier(LogDestination()).send(notification("k", status, severity), NOW)
    (call,) = written.calls
    assert call.method_name == level
    assert call.kwargs["alert"] == "CriticalLatencyP99High"
    assert call.kwargs["dedup_key"] == "k"
