"""One message an alert, changed from firing to resolved, through restarts and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.alerts.errors import DeliveryError
from agent.alerts.notifiers.slack import RESOLVED
from agent.alerts.notifiers.slackbot import SlackBotNotifier
from agent.confignotify import Slack
from agent.state import StateDB
from agent.units import UnixTime
from tests.alerts.made import notification
from tests.faults.slackapi import TOKEN, SlackApi

NOW = UnixTime(1_750_000_100.0)


@pytest.fixture
def api() -> Iterator[SlackApi]:
    with SlackApi() as made:
        yield made


@pytest.fixture
def db(tmp_path: Path) -> Iterator[StateDB]:
    made = StateDB(tmp_path / "state.db")
    yield made
    made.close()


def bot(api: SlackApi, db: StateDB, token: str = TOKEN) -> SlackBotNotifier:
    config = Slack.model_validate(
        {"bot_token": {"secret": "t"}, "api_url": api.url, "timeout": "2s"}
    )
    return SlackBotNotifier(config, lambda _n: token.encode(), lambda _n, _v: None, db)


def test_a_resolve_changes_the_message_that_told_of_the_alert(api: SlackApi, db: StateDB) -> None:
    sent = bot(api, db)
    sent.send(notification("k"), NOW)
    sent.close()
    sent = bot(api, db)  # as after a restart
    sent.send(notification("k", "resolved"), NOW)
    sent.close()
    assert [method for method, _ in api.calls] == ["chat.postMessage", "chat.update"]
    (message,) = api.messages.values()
    assert "RESOLVED" in message["text"]
    assert message["attachments"][0]["color"] == RESOLVED


def test_an_alert_that_fires_again_is_a_message_of_its_own(api: SlackApi, db: StateDB) -> None:
    sent = bot(api, db)
    for status in ("firing", "resolved", "firing"):
        sent.send(notification("k", status), NOW)
    sent.close()
    assert len(api.messages) == 2


def test_two_alerts_are_two_messages(api: SlackApi, db: StateDB) -> None:
    sent = bot(api, db)
    sent.send(notification("a"), NOW)
    sent.send(notification("b"), NOW)
    sent.send(notification("a", "resolved"), NOW)
    sent.close()
    texts = [message["text"] for message in api.messages.values()]
    assert ["RESOLVED" in text for text in texts] == [True, False]


def test_a_repeat_answers_the_message_where_the_channel_sees_it(api: SlackApi, db: StateDB) -> None:
    sent = bot(api, db)
    sent.send(notification("k"), NOW)
    sent.send(notification("k", repeated=True), NOW)
    sent.send(notification("k", "resolved"), NOW)
    sent.close()
    first, reply = api.messages
    assert api.messages[reply]["thread_ts"] == first
    assert api.messages[reply]["reply_broadcast"] is True
    assert "RESOLVED" in api.messages[first]["text"]


def test_a_resolve_whose_message_was_deleted_is_told_by_a_message(
    api: SlackApi, db: StateDB
) -> None:
    sent = bot(api, db)
    sent.send(notification("k"), NOW)
    api.messages.clear()
    sent.send(notification("k", "resolved"), NOW)
    sent.close()
    (message,) = api.messages.values()
    assert "RESOLVED" in message["text"]


@pytest.mark.parametrize(
    ("plan", "permanent", "waits"),
    [
        (429, False, 30.0),
        (503, False, None),
        ("internal_error", False, None),
        ("not_in_channel", False, 60.0),
        ("token_revoked", False, 60.0),
        ("msg_too_long", True, None),
    ],
)
def test_each_refusal_means_what_the_table_says(
    api: SlackApi, db: StateDB, plan: int | str, permanent: bool, waits: float | None
) -> None:
    api.planned.append(plan)
    sent = bot(api, db)
    with pytest.raises(DeliveryError) as caught:
        sent.send(notification("k"), NOW)
    sent.close()
    assert caught.value.permanent is permanent
    assert caught.value.retry_after == waits
    assert api.messages == {}


def test_a_wrong_token_is_in_no_message_of_the_refusal(api: SlackApi, db: StateDB) -> None:
    sent = bot(api, db, "xoxb-wrong-and-secret")
    with pytest.raises(DeliveryError) as caught:
        sent.send(notification("k"), NOW)
    sent.close()
    assert "xoxb" not in caught.value.told()
    assert caught.value.retry_after == 60.0
