"""Messages as Slack accepts them; the webhook's URL in no error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.alerts.errors import DeliveryError
from agent.alerts.notifiers.slack import RESOLVED, SlackNotifier, message
from agent.confignotify import Slack
from agent.demo.receiver import slack_error
from agent.units import UnixTime
from tests.alerts.made import HOOK_PATH, notification
from tests.demo.programs import call_json, program
from tests.faults.receiver import FaultyReceiver

NOW = UnixTime(1_750_000_100.0)
TEXT = st.text(max_size=5000)


def notifier(url: str) -> SlackNotifier:
    config = Slack.model_validate({"webhook_url": {"secret": "api_key/slack"}, "timeout": 0.5})
    return SlackNotifier(config, lambda _name: url.encode(), lambda _name, _value: None)


@settings(max_examples=60, deadline=None)
@given(
    summary=TEXT,
    description=TEXT,
    labels=st.dictionaries(st.text(max_size=40), TEXT, max_size=6),
    status=st.sampled_from(("firing", "resolved")),
)
def test_every_notification_becomes_a_message_within_the_limits(
    summary: str, description: str, labels: dict[str, str], status: str
) -> None:
    told = notification(
        "k", status, labels=labels, annotations={"summary": summary, "description": description}
    )
    built = message(told, "#alerts")
    assert slack_error(built) is None
    assert built["text"]
    (attachment,) = built["attachments"]
    for block in attachment["blocks"]:
        texts = [block["text"]] if "text" in block else []
        texts += block.get("fields", []) + block.get("elements", [])
        assert texts
        for text in texts:
            assert 0 < len(text["text"]) <= 3000
        assert len(block.get("fields", [])) <= 10
    assert len(json.dumps(built, ensure_ascii=False)) < 40_000


def test_what_slack_reads_as_markup_is_escaped() -> None:
    told = notification(
        labels={"x": "<!channel>"},
        annotations={"summary": "<!here> a & b", "description": "<https://evil|click>"},
    )
    text = json.dumps(message(told, ""))
    for forbidden in ("<!channel>", "<!here>", "<https://evil"):
        assert forbidden not in text
    assert "&lt;!here&gt; a &amp; b" in text


def test_a_resolve_is_green_and_says_how_long_it_fired() -> None:
    built = message(notification(status="resolved"), "#alerts")
    assert built["attachments"][0]["color"] == RESOLVED
    assert "RESOLVED after 1 min 5 s: P99 above 25 µs" in built["text"]


def test_a_page_names_the_bundle_and_links_to_the_runbook() -> None:
    text = json.dumps(message(notification(context={"bundle": "v9", "bundle_live_for": "42s"}), ""))
    assert "v9 (live for 42s)" in text
    assert "<https://runbooks.example/latency|Runbook>" in text


def test_a_repeat_says_that_it_still_fires() -> None:
    assert "(still firing)" in message(notification(repeated=True), "")["text"]


def test_the_receiver_takes_what_is_sent() -> None:
    with program("agent.demo.receiver") as (url, _):
        sent = notifier(f"{url}/services/T0TEST/B0TEST/abc123")
        sent.send(notification(), NOW)
        sent.close()
        _, seen = call_json(f"{url}/events")
    assert [event["service"] for event in seen["events"]] == ["slack"]


@pytest.mark.parametrize(
    "fault", ["hang", "drip", "drip_body", "reset", "half", "silent", 200, 404]
)
def test_no_failure_tells_the_webhook_s_url(fault: int | str) -> None:
    with FaultyReceiver() as receiver:
        receiver.plan(fault)
        sent = notifier(receiver.url(HOOK_PATH))
        with pytest.raises(DeliveryError) as caught:
            sent.send(notification(), NOW)
        sent.close()
    error = caught.value
    assert not error.permanent
    seen: BaseException | None = error
    while seen is not None:  # what a traceback would print
        for text in (str(seen), repr(seen), getattr(seen, "remedy", "")):
            assert "verysecret" not in text
        seen = None if seen.__suppress_context__ else seen.__cause__ or seen.__context__


def test_a_refused_connection_and_an_unknown_host_tell_only_that() -> None:
    for url in (f"http://127.0.0.1:1{HOOK_PATH}", f"https://nohost.invalid{HOOK_PATH}"):
        sent = notifier(url)
        with pytest.raises(DeliveryError) as caught:
            sent.send(notification(), NOW)
        sent.close()
        assert "verysecret" not in caught.value.told()
        assert "refused" in str(caught.value) or "does not resolve" in str(caught.value)


def test_a_credential_that_is_no_url_is_said_without_showing_it() -> None:
    with pytest.raises(DeliveryError, match="not a URL") as caught:
        notifier("verysecret").send(notification(), NOW)
    assert "verysecret" not in caught.value.told()
