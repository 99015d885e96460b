"""Events as PagerDuty accepts them, judged by the demo receiver's own list of refusals."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.alerts.errors import DeliveryError
from agent.alerts.notifiers.pagerduty import BODY_MAX, PagerDutyNotifier, body, event
from agent.confignotify import PagerDuty
from agent.demo.receiver import pagerduty_errors
from agent.units import UnixTime
from tests.alerts.made import ROUTING_KEY, notification
from tests.demo.programs import call_json, program
from tests.faults.receiver import FaultyReceiver

NOW = UnixTime(1_750_000_100.0)
TEXT = st.text(max_size=3000)


def notifier(url: str, key: str = ROUTING_KEY) -> PagerDutyNotifier:
    config = PagerDuty.model_validate(
        {"url": url, "routing_key": {"secret": "api_key/pagerduty"}, "timeout": 0.5}
    )
    return PagerDutyNotifier(config, lambda _name: key.encode(), lambda _name, _value: None)


@settings(max_examples=60, deadline=None)
@given(
    summary=TEXT,
    labels=st.dictionaries(st.text(max_size=40), TEXT, max_size=5),
    value=st.floats(),
    severity=st.sampled_from(("critical", "warning", "info", "none", "odd", "")),
    status=st.sampled_from(("firing", "resolved")),
)
def test_every_notification_becomes_an_event_that_the_service_takes(
    summary: str, labels: dict[str, str], value: float, severity: str, status: str
) -> None:
    told = notification(
        "k", status, severity, labels=labels, value=value, annotations={"summary": summary}
    )
    raw = body(told, ROUTING_KEY)
    assert pagerduty_errors(json.loads(raw)) == []
    assert len(raw) <= BODY_MAX


@pytest.mark.parametrize(
    ("severity", "mapped"),
    [("critical", "critical"), ("warning", "warning"), ("info", "info"), ("page", "error")],
)
def test_severities_are_mapped_and_an_unknown_one_is_an_error(severity: str, mapped: str) -> None:
    assert event(notification(severity=severity), ROUTING_KEY)["payload"]["severity"] == mapped


def test_a_page_names_the_bundle_the_pod_and_links_to_the_runbook() -> None:
    built = event(notification(), ROUTING_KEY)
    details = built["payload"]["custom_details"]
    assert details["bundle"] == "v2025-07-08"
    assert built["payload"]["source"] == "trader-0"
    assert built["payload"]["summary"] == "P99 above 25 µs"
    assert built["links"] == [{"href": "https://runbooks.example/latency", "text": "Runbook"}]
    assert "links" not in built["payload"]
    assert details["labels"]["alertname"] == "CriticalLatencyP99High"


def test_class_component_group_client_links_and_images_stand_where_the_service_wants_them() -> None:
    config = PagerDuty.model_validate(
        {
            "routing_key": {"secret": "k"},
            "severity_map": {"page": "critical"},
            "class_label": "kind",
            "component_label": "desk",
            "group_label": "squad",
            "client": "fra1",
            "client_url": "https://status.example/fra1",
        }
    )
    told = notification(
        severity="page",
        labels={"alertname": "A", "kind": "latency", "desk": "fx", "squad": "risk"},
        annotations={
            "summary": "s",
            "runbook_url": "https://runbooks.example/a",
            "dashboard_url": "https://dashboards.example/a",
            "trace_url": "javascript:alert(1)",
            "image_url": "https://images.example/a.png",
        },
    )
    with FaultyReceiver() as receiver:
        config = config.model_copy(update={"url": receiver.url("/v2/enqueue")})
        sent = PagerDutyNotifier(config, lambda _n: ROUTING_KEY.encode(), lambda _n, _v: None)
        sent.send(told, NOW)
        sent.close()
    (built,) = receiver.accepted
    assert pagerduty_errors(built) == []
    payload = built["payload"]
    assert payload["severity"] == "critical"
    assert (payload["class"], payload["component"], payload["group"]) == ("latency", "fx", "risk")
    assert (built["client"], built["client_url"]) == ("fra1", "https://status.example/fra1")
    assert built["links"] == [
        {"href": "https://runbooks.example/a", "text": "Runbook"},
        {"href": "https://dashboards.example/a", "text": "Dashboard"},
    ]
    (image,) = built["images"]
    assert image["src"] == "https://images.example/a.png"
    assert image["href"] == "https://dashboards.example/a"
    assert not {"links", "images", "client"} & set(payload)


def test_a_resolve_carries_the_whole_payload_and_the_trigger_s_key() -> None:
    firing = event(notification("k"), ROUTING_KEY)
    resolved = event(notification("k", "resolved"), ROUTING_KEY)
    assert resolved["event_action"] == "resolve"
    assert resolved["dedup_key"] == firing["dedup_key"] == "k"
    assert resolved["payload"]["summary"] == firing["payload"]["summary"]
    assert resolved["payload"]["custom_details"]["fired_for"] == "1 min 5 s"


def test_an_event_too_large_loses_its_longest_text_and_says_so() -> None:
    told = notification(annotations={"summary": "short", "description": "x" * 700_000})
    built = json.loads(body(told, ROUTING_KEY))
    assert len(body(told, ROUTING_KEY)) <= BODY_MAX
    assert built["payload"]["summary"] == "short"
    assert built["payload"]["custom_details"]["labels"]["service"] == "risk"
    assert "cut" in built["payload"]["custom_details"]


def test_a_flood_of_labels_still_makes_an_event() -> None:
    told = notification(labels={f"label{n}": "v" * 90 for n in range(9000)})
    raw = body(told, ROUTING_KEY)
    assert len(raw) <= BODY_MAX
    assert pagerduty_errors(json.loads(raw)) == []


def test_the_receiver_takes_what_is_sent_and_a_value_that_is_no_number() -> None:
    with program("agent.demo.receiver") as (url, _):
        sent = notifier(f"{url}/v2/enqueue")
        sent.send(notification("k1"), NOW)
        sent.send(notification("k1", "resolved", value=math.nan), NOW)
        sent.close()
        _, seen = call_json(f"{url}/events")
    actions = [(e["body"]["event_action"], e["body"]["dedup_key"]) for e in seen["events"]]
    assert actions == [("trigger", "k1"), ("resolve", "k1")]


@pytest.mark.parametrize(
    ("status", "permanent", "waits"),
    [
        (400, True, None),
        (413, True, None),
        (401, False, 60.0),
        (403, False, 60.0),
        (404, False, 60.0),
        (302, False, 60.0),
        (408, False, None),
        (429, False, 7.0),
        (500, False, None),
        (503, False, 7.0),
    ],
)
def test_each_status_means_what_the_table_says(
    status: int, permanent: bool, waits: float | None
) -> None:
    with FaultyReceiver() as receiver:
        receiver.retry_after = "7"
        receiver.plan(status)
        sent = notifier(receiver.url("/v2/enqueue"))
        with pytest.raises(DeliveryError) as caught:
            sent.send(notification(), NOW)
        sent.close()
        assert len(receiver.requests) == 1  # a redirect is not followed
    assert caught.value.permanent is permanent
    assert caught.value.retry_after == waits


def test_an_answer_that_does_not_say_accepted_is_no_success() -> None:
    with FaultyReceiver() as receiver:
        receiver.plan(202, 200)
        sent = notifier(receiver.url("/v2/enqueue"))
        for _ in range(2):
            with pytest.raises(DeliveryError, match="without saying that it took the event"):
                sent.send(notification(), NOW)
        sent.close()


def test_a_routing_key_goes_to_no_address_that_is_not_https() -> None:
    sent = notifier("http://events.example.com/v2/enqueue")
    with pytest.raises(DeliveryError, match="not https"):
        sent.send(notification(), NOW)
