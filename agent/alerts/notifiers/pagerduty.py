"""PagerDuty, Events API v2: one event a notification, within the limits that the service states.

Limits and meanings: developer.pagerduty.com, "Events API v2". The full payload goes with a resolve
too, because event rules see nothing else. `links` stand beside `payload`. What does not fit into
512 KiB is left out of `custom_details`, longest text first, and the event says so: a page that
lacks a detail is worth more than a page that is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NotRequired, TypedDict

from agent.alerts.errors import DeliveryError
from agent.alerts.exchange import Connection
from agent.alerts.notifiers.base import (
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
from agent.alerts.routing import Notification, Route
from agent.alerts.storm import Traits
from agent.confignotify import PagerDuty
from agent.units import Seconds, UnixTime

SUMMARY_MAX = 1024
DEDUP_MAX = 255
BODY_MAX = 512 * 1024
SOURCE_MAX = 255

Severity = Literal["critical", "error", "warning", "info"]
LINK_TEXT_MAX = 255
_IMAGE = "image_url"
SEVERITIES: dict[str, Severity] = {
    "critical": "critical",
    "error": "error",
    "warning": "warning",
    "info": "info",
    "none": "info",
}


class Link(TypedDict):
    """A button of the incident."""

    href: str
    text: str


class Image(TypedDict):
    """A picture in the incident; `src` is https, or the service leaves it out."""

    src: str
    href: NotRequired[str]
    alt: NotRequired[str]


Payload = TypedDict(
    "Payload",
    {
        "summary": str,
        "source": str,
        "severity": Severity,
        "timestamp": str,
        "component": NotRequired[str],
        "group": NotRequired[str],
        "class": str,
        "custom_details": dict[str, Any],
    },
)


class Event(TypedDict):
    """The body of an enqueue call."""

    routing_key: str
    event_action: Literal["trigger", "resolve"]
    dedup_key: str
    client: str
    client_url: NotRequired[str]
    payload: Payload
    links: NotRequired[list[Link]]
    images: NotRequired[list[Image]]


@dataclass(frozen=True, slots=True)
class Style:
    """What of an event the configuration decides."""

    severities: Mapping[str, Severity] = field(default_factory=lambda: SEVERITIES)
    class_label: str = "alertname"
    component_label: str = "service"
    group_label: str = "team"
    client: str = "jules-agent"
    client_url: str | None = None


PLAIN = Style()


def event(notification: Notification, routing_key: str, style: Style = PLAIN) -> Event:
    """The event for a notification."""
    n = notification
    built: Event = {
        "routing_key": routing_key,
        "event_action": "trigger" if n.status == "firing" else "resolve",
        "dedup_key": n.dedup_key[:DEDUP_MAX],
        "client": style.client,
        "payload": _payload(n, style),
    }
    if style.client_url:
        built["client_url"] = style.client_url
    if links := _links(n):
        built["links"] = links
    if images := _images(n):
        built["images"] = images
    return built


def _links(n: Notification) -> list[Link]:
    """A button for each annotation `X_url`; `X` is its text."""
    found: list[Link] = []
    for key, href in {**_urls(n.labels), **_urls(n.annotations)}.items():
        if key != _IMAGE:
            text = key.removesuffix("_url").replace("_", " ").capitalize()
            found.append({"href": href, "text": cut(text, LINK_TEXT_MAX)})
    found.sort(key=lambda link: (link["text"] != "Runbook", link["text"]))
    return found


def _images(n: Notification) -> list[Image]:
    src = n.annotations.get(_IMAGE, "")
    if not src.startswith("https://"):
        return []
    image: Image = {"src": src, "alt": cut(n.name, LINK_TEXT_MAX)}
    dashboard = _urls(n.annotations).get("dashboard_url")
    if dashboard:
        image["href"] = dashboard
    return [image]


def _urls(texts: Mapping[str, str]) -> dict[str, str]:
    return {
        key: text
        for key, text in texts.items()
        if key.endswith("_url") and text.startswith(("https://", "http://"))
    }


def body(notification: Notification, routing_key: str, style: Style = PLAIN) -> bytes:
    """The event as bytes, at most 512 KiB."""
    built = event(notification, routing_key, style)
    raw = as_json(built)
    details = built["payload"]["custom_details"]
    while len(raw) > BODY_MAX and _shorten(details):
        raw = as_json(built)
    if len(raw) > BODY_MAX:
        built["payload"]["custom_details"] = {"cut": "too large for one event; see the agent"}
        built.pop("links", None)
        built.pop("images", None)
        raw = as_json(built)
    return raw


def _payload(n: Notification, style: Style) -> Payload:
    name, pod = n.labels.get("service") or n.name, n.context.get("pod", "")
    payload: Payload = {
        "summary": cut(n.summary or n.name, SUMMARY_MAX),
        "source": cut(pod or n.labels.get("instance") or name or "jules-agent", SOURCE_MAX),
        "severity": style.severities.get(n.severity, "error"),
        "timestamp": iso(n.resolved_at or n.fired_at),
        "class": n.labels.get(style.class_label) or n.name,
        "custom_details": _details(n),
    }
    if component := n.labels.get(style.component_label):
        payload["component"] = component
    if group := n.labels.get(style.group_label):
        payload["group"] = group
    return payload


def _details(n: Notification) -> dict[str, Any]:
    details: dict[str, Any] = {
        "alert": n.name,
        "status": n.status,
        "active_since": iso(n.active_at),
        "fired_at": iso(n.fired_at),
        "labels": dict(n.labels),
        "annotations": dict(n.annotations),
        **n.context,
    }
    if n.value is not None:
        details["value"] = number(n.value)
    if n.resolved_at is not None:
        details["resolved_at"] = iso(n.resolved_at)
        details["fired_for"] = lasted(n.resolved_at - n.fired_at)
    return details


def _shorten(details: dict[str, Any]) -> bool:
    """Halve the longest text of the details; False when none is long any more."""
    place: tuple[dict[str, Any], str] | None = None
    longest = 100
    for tree in (details, details.get("labels", {}), details.get("annotations", {})):
        for key, value in tree.items():
            if isinstance(value, str) and len(value) > longest:
                place, longest = (tree, key), len(value)
    if place is None:
        return False
    tree, key = place
    tree[key] = cut(tree[key], longest // 2)
    details["cut"] = "some texts were too long for one event"
    return True


def iso(at: UnixTime) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


class PagerDutyNotifier:
    """One integration of PagerDuty."""

    name = "pagerduty"
    # The service takes about 120 calls in any 60 s: a burst of 20 and 1.5 a second stay at 110.
    rate = Rate(per_second=1.5, burst=20)
    traits = Traits(keyed=True, room=100_000)

    def __init__(self, config: PagerDuty, reader: SecretReader | None, learn: Learn) -> None:
        self.route = Route(self.name, frozenset(config.severities))
        self.timeout: Seconds = config.timeout
        self.credential = Credential(config.routing_key, "PagerDuty routing key", reader, learn)
        self.credential.length = 32
        self._url = config.url
        self._style = Style(
            severities={**SEVERITIES, **config.severity_map},
            class_label=config.class_label,
            component_label=config.component_label,
            group_label=config.group_label,
            client=config.client,
            client_url=config.client_url,
        )
        self._connection = Connection()

    def send(self, notification: Notification, now: UnixTime) -> None:
        """Enqueue one event. Raises DeliveryError."""
        raw = body(notification, self.credential.read(), self._style)
        answer = post(self._connection, "PagerDuty", self._url, raw, self.timeout, now)
        try:
            accepted = answer.status == 202 and json.loads(answer.body)["status"] == "success"
        except (ValueError, KeyError, TypeError):
            accepted = False
        if not accepted:
            raise DeliveryError(
                f"PagerDuty answered {answer.status} without saying that it took the event",
                "check that alerts.pagerduty.url is the Events API v2",
            )

    def close(self) -> None:
        self._connection.close()
