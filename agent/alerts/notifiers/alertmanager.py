"""A fleet's Alertmanager, API v2: alerts as a Prometheus would post them.

Labels are the alert's own with the external labels, so that Alertmanager, which knows an alert by
its labels, takes what a central Prometheus with the same rules sends for the same alert. What fires
ends there by itself at `endsAt`, so it is told again every `resend` seconds, with an `endsAt` four
times as far ahead, as Prometheus does it. Sends and resends are serialised by a lock and read one
table: a resend that was begun before a resolve can never arrive after it and open the alert again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NotRequired, TypedDict

from agent.alerts.exchange import Connection
from agent.alerts.notifiers.base import (
    Credential,
    Learn,
    Rate,
    SecretReader,
    as_json,
    bearer,
    post,
)
from agent.alerts.routing import Notification, Route
from agent.alerts.storm import Traits
from agent.confignotify import Alertmanager
from agent.units import Seconds, UnixTime

ENDS_AFTER = 4
"""`endsAt` lies this many resends ahead: three may be lost and the alert still stands."""
CONTEXT = ("bundle", "previous_bundle", "bundle_live_for")
_MOST_AT_ONCE = 200


class PostableAlert(TypedDict):
    """One element of the body of `POST /api/v2/alerts`; times are RFC 3339."""

    labels: dict[str, str]
    annotations: dict[str, str]
    startsAt: str
    endsAt: str
    generatorURL: NotRequired[str]


def postable(
    notification: Notification, now: UnixTime, resend: Seconds, generator_url: str | None
) -> PostableAlert:
    """The alert as Alertmanager takes it. Empty labels mean none there, and are left out."""
    n = notification
    ends = n.resolved_at if n.status == "resolved" else None
    built: PostableAlert = {
        "labels": {key: value for key, value in n.labels.items() if value},
        "annotations": {
            **{key: n.context[key] for key in CONTEXT if n.context.get(key)},
            **{key: value for key, value in n.annotations.items() if value},
        },
        "startsAt": rfc3339(n.fired_at),
        "endsAt": rfc3339(now + ENDS_AFTER * resend if ends is None else max(ends, n.fired_at)),
    }
    built["labels"].setdefault("alertname", n.name)
    if generator_url:
        built["generatorURL"] = generator_url
    return built


def rfc3339(at: float) -> str:
    """A moment in UTC to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AlertmanagerNotifier:
    """One Alertmanager."""

    name = "alertmanager"
    rate = Rate(per_second=50.0, burst=100)
    traits = Traits(together=False)

    def __init__(self, config: Alertmanager, reader: SecretReader | None, learn: Learn) -> None:
        self.route = Route(self.name, frozenset(config.severities))
        self.timeout: Seconds = config.timeout
        self.resend_every: Seconds = config.resend
        self.credential = (
            Credential(config.bearer_token, "Alertmanager token", reader, learn)
            if config.bearer_token
            else None
        )
        self._url = config.url.rstrip("/") + "/api/v2/alerts"
        self._generator_url = config.generator_url
        self._connection = Connection()
        self._lock = threading.Lock()
        self._firing: dict[str, Notification] = {}

    def adopt(self, firing: Iterable[Notification]) -> None:
        """What was told before a restart and fires still: resent from now on."""
        with self._lock:
            for notification in firing:
                self._firing.setdefault(notification.dedup_key, notification)

    def send(self, notification: Notification, now: UnixTime) -> None:
        """Post one alert. Raises DeliveryError."""
        with self._lock:
            self._post((notification,), now)
            if notification.status == "firing":
                self._firing[notification.dedup_key] = notification
            else:
                self._firing.pop(notification.dedup_key, None)

    def resend(self, now: UnixTime) -> int:
        """Tell again what fires, at most `_MOST_AT_ONCE` a request; how many. Blocking.

        Raises:
            DeliveryError: not accepted; the next resend makes it good.
        """
        with self._lock:
            firing = list(self._firing.values())
            for first in range(0, len(firing), _MOST_AT_ONCE):
                self._post(firing[first : first + _MOST_AT_ONCE], now)
        return len(firing)

    def _post(self, notifications: Sequence[Notification], now: UnixTime) -> None:
        every = self.resend_every
        built = [postable(n, now, every, self._generator_url) for n in notifications]
        headers = bearer(self.credential)
        raw = as_json(built)
        post(
            self._connection,
            "Alertmanager",
            self._url,
            raw,
            self.timeout,
            now,
            headers,
            guarded=self.credential is not None,
        )

    def close(self) -> None:
        self._connection.close()
