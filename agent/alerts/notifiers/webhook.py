"""Any receiver of Alertmanager's webhook payload, version 4: one group of one alert a call.

Shape: prometheus.io, "Alerting: configuration", `webhook_config`. What reads Alertmanager's calls
reads these; `groupKey` is the alert's dedup key, the same for trigger, repeat and resolve.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from agent.alerts.errors import DeliveryError
from agent.alerts.exchange import Connection
from agent.alerts.notifiers.alertmanager import CONTEXT, rfc3339
from agent.alerts.notifiers.base import (
    SLOW_RETRY,
    Credential,
    Learn,
    Rate,
    SecretReader,
    as_json,
    bearer,
    number,
    post,
)
from agent.alerts.routing import Notification, Route
from agent.confignotify import Webhook
from agent.units import Seconds, UnixTime

_NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time: how Alertmanager writes the end of what has not ended."""


class WebhookAlert(TypedDict):
    """One alert of the group."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str]
    startsAt: str
    endsAt: str
    generatorURL: str
    fingerprint: str


class WebhookBody(TypedDict):
    """The whole call."""

    version: Literal["4"]
    groupKey: str
    truncatedAlerts: int
    status: Literal["firing", "resolved"]
    receiver: str
    groupLabels: dict[str, str]
    commonLabels: dict[str, str]
    commonAnnotations: dict[str, str]
    externalURL: str
    alerts: list[WebhookAlert]


def webhook_body(notification: Notification, receiver: str, external_url: str) -> WebhookBody:
    """The call for a notification. The value and the bundle are told as annotations."""
    n = notification
    annotations = {key: n.context[key] for key in CONTEXT if n.context.get(key)}
    annotations.update({"value": number(n.value)} if n.value is not None else {})
    annotations.update(n.annotations)
    labels = dict(n.labels)
    labels.setdefault("alertname", n.name)
    alert: WebhookAlert = {
        "status": n.status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": rfc3339(n.fired_at),
        "endsAt": _NEVER if n.resolved_at is None else rfc3339(n.resolved_at),
        "generatorURL": external_url,
        "fingerprint": n.dedup_key.rpartition("-")[2][:16],
    }
    return {
        "version": "4",
        "groupKey": n.dedup_key,
        "truncatedAlerts": 0,
        "status": n.status,
        "receiver": receiver,
        "groupLabels": {"alertname": n.name},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": external_url,
        "alerts": [alert],
    }


class WebhookNotifier:
    """One receiver."""

    rate = Rate(per_second=20.0, burst=50)

    def __init__(self, config: Webhook, reader: SecretReader | None, learn: Learn) -> None:
        self.name: str = config.name
        self.route = Route(self.name, frozenset(config.severities))
        self.timeout: Seconds = config.timeout
        self._token = (
            Credential(config.bearer_token, f"{self.name} token", reader, learn)
            if config.bearer_token
            else None
        )
        self._secret_url = (
            Credential(config.url_from, f"{self.name} URL", reader, learn)
            if config.url_from
            else None
        )
        self.credential = self._secret_url or self._token
        self._url = config.url or ""
        self._external_url = config.external_url or ""
        self._connection = Connection()

    def send(self, notification: Notification, now: UnixTime) -> None:
        """Post one call; any 2xx is an acceptance. Raises DeliveryError."""
        url = self._secret_url.read() if self._secret_url else self._url
        if not url.startswith(("https://", "http://")):
            raise DeliveryError(
                f"{self.name}: the credential is no URL",
                "store the whole URL",
                retry_after=SLOW_RETRY,
            )
        raw = as_json(webhook_body(notification, self.name, self._external_url))
        headers = bearer(self._token)
        guarded = bool(self._token or self._secret_url)
        post(self._connection, self.name, url, raw, self.timeout, now, headers, guarded=guarded)

    def close(self) -> None:
        self._connection.close()
