"""Slack, by incoming webhook: a line of text for notifications, and one coloured attachment.

`slackbot` sends the same messages with a bot's token. Limits and escapes: docs.slack.dev,
"Incoming webhooks", "Formatting text" and "Attachments". Blocks have no colour bar of their own, so
they stand inside an attachment. The webhook's URL is itself the credential: it appears in no
message, error or log line.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from agent.alerts.errors import DeliveryError
from agent.alerts.exchange import Connection
from agent.alerts.notifiers.base import (
    SLOW_RETRY,
    Credential,
    Learn,
    Rate,
    SecretReader,
    as_json,
    cut,
    lasted,
    number,
    post,
)
from agent.alerts.notifiers.pagerduty import iso
from agent.alerts.routing import Notification, Route
from agent.confignotify import Slack
from agent.units import Seconds, UnixTime

TEXT_MAX = 3000
"""Characters of one section; the whole message may have 40,000."""
FIELD_MAX = 2000
FIELDS_MAX = 10
HEADER_MAX = 150

COLOURS = {"critical": "#d32f2f", "warning": "#f9a825", "info": "#1976d2"}
RESOLVED, OTHER = "#2e7d32", "#757575"
EMOJI = {"critical": ":rotating_light:", "warning": ":warning:", "info": ":information_source:"}


class Attachment(TypedDict):
    """The coloured part of a message."""

    color: str
    fallback: str
    blocks: list[dict[str, Any]]


class Message(TypedDict):
    """The body of a webhook call."""

    channel: NotRequired[str]
    username: str
    text: str
    attachments: list[Attachment]


def escape(text: str) -> str:
    """The three characters that Slack reads as markup (`<!channel>` from a label must not ring)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def message(notification: Notification, channel: str) -> Message:
    """The message for a notification."""
    n = notification
    headline = _headline(n)
    built: Message = {
        "username": "jules-agent",
        "text": headline,
        "attachments": [
            {
                "color": RESOLVED if n.status == "resolved" else COLOURS.get(n.severity, OTHER),
                "fallback": headline,
                "blocks": _blocks(n),
            }
        ],
    }
    if channel:
        built["channel"] = channel
    return built


def _headline(n: Notification) -> str:
    if n.status == "resolved":
        end = n.resolved_at if n.resolved_at is not None else n.fired_at
        told = f":white_check_mark: RESOLVED after {lasted(end - n.fired_at)}: {escape(n.summary)}"
    else:
        again = " (still firing)" if n.repeated else ""
        sign = EMOJI.get(n.severity, ":grey_question:")
        told = f"{sign} {escape(n.severity.upper())}{again}: {escape(n.summary)}"
    return cut(told, TEXT_MAX)


def _blocks(n: Notification) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    description = n.annotations.get("description", "")
    text = f"*{escape(cut(n.name, HEADER_MAX))}*"
    if description:
        text += "\n" + escape(description)
    blocks.append(_section(text))
    fields = [f"*{escape(title)}*\n{escape(told)}" for title, told in _fields(n) if told]
    if fields:
        shown = [{"type": "mrkdwn", "text": cut(text, FIELD_MAX)} for text in fields[:FIELDS_MAX]]
        blocks.append({"type": "section", "fields": shown})
    labels = ", ".join(f"{key}={value}" for key, value in sorted(n.labels.items()))
    links = _links(n)
    small = " · ".join(part for part in (links, escape(cut(labels, 1500))) if part)
    blocks.append(
        {"type": "context", "elements": [{"type": "mrkdwn", "text": cut(small or "-", TEXT_MAX)}]}
    )
    return blocks


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": cut(text, TEXT_MAX)}}


def _fields(n: Notification) -> list[tuple[str, str]]:
    """What a person looks for first."""
    bundle = n.context.get("bundle", "")
    if bundle and n.context.get("bundle_live_for"):
        bundle += f" (live for {n.context['bundle_live_for']})"
    fields = [
        ("Severity", n.severity),
        ("Value", number(n.value)),
        ("Environment", n.context.get("environment", "")),
        ("Pod", n.context.get("pod", "")),
        ("Bundle", bundle),
        ("Bundle before", n.context.get("previous_bundle", "")),
        ("Active since", iso(n.active_at)),
    ]
    if n.resolved_at is not None:
        fields.append(("Fired for", lasted(n.resolved_at - n.fired_at)))
    return fields


def _links(n: Notification) -> str:
    found = []
    for key, text in (("runbook_url", "Runbook"), ("dashboard_url", "Dashboard")):
        href = n.annotations.get(key, "")
        plain = not any(char in href for char in "<>| \n")
        if href.startswith(("https://", "http://")) and plain and len(href) < 1000:
            found.append(f"<{href.replace('&', '&amp;')}|{text}>")
    return " ".join(found)


class SlackNotifier:
    """One incoming webhook of Slack."""

    name = "slack"
    rate = Rate(per_second=0.95, burst=3)

    def __init__(self, config: Slack, reader: SecretReader | None, learn: Learn) -> None:
        self.route = Route(self.name, frozenset(config.severities))
        self.timeout: Seconds = config.timeout
        assert config.webhook_url is not None
        self.credential = Credential(config.webhook_url, "Slack webhook", reader, learn)
        self._channel = config.channel
        self._connection = Connection()

    def send(self, notification: Notification, now: UnixTime) -> None:
        """Post one message. Raises DeliveryError."""
        url = self.credential.read()
        if not url.startswith(("https://", "http://")):
            raise DeliveryError(
                "Slack: the webhook credential is not a URL",
                "store the whole webhook URL",
                retry_after=SLOW_RETRY,
            )
        raw = as_json(message(notification, self._channel))
        answer = post(self._connection, "Slack", url, raw, self.timeout, now)
        if answer.body.strip() != b"ok":
            raise DeliveryError(
                f"Slack answered {answer.status} without `ok`",
                "check that the webhook URL is Slack's",
            )

    def close(self) -> None:
        self._connection.close()
