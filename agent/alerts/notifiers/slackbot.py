"""Slack with a bot's token: one message an alert, changed from firing to resolved.

`chat.postMessage` answers with the message's channel and `ts`; the resolve is a `chat.update` of
that message, which rings nobody again. Where a message was posted is kept in the state file, so
that a restart forgets none; when it is not known, or the message is gone, a resolve is a message of
its own. A repeat is a reply that the channel sees too.

Methods, limits and errors: docs.slack.dev, "chat.postMessage", "chat.update". Web API calls answer
200 and `{"ok": false, "error": …}`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agent.alerts.errors import DeliveryError
from agent.alerts.exchange import Connection
from agent.alerts.notifiers.base import (
    SLOW_RETRY,
    Credential,
    Learn,
    Rate,
    SecretReader,
    as_json,
    bearer,
    post,
)
from agent.alerts.notifiers.slack import message
from agent.alerts.routing import Notification, Route
from agent.confignotify import Slack
from agent.state import StateDB
from agent.units import Seconds, UnixTime

_STEPS = (
    "CREATE TABLE slack_messages (dedup_key TEXT PRIMARY KEY, channel TEXT NOT NULL,"
    " ts TEXT NOT NULL, posted_at REAL NOT NULL) WITHOUT ROWID",
)
_KEPT_FOR = 30 * 86400.0

HEALS = frozenset(
    (
        *("invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive"),
        *("missing_scope", "no_permission", "channel_not_found", "not_in_channel", "is_archived"),
        *("access_denied", "org_login_required", "ekm_access_denied", "team_access_not_granted"),
    )
)
"""What a person puts right at Slack's side or by another token: tried again slowly."""
NEVER = frozenset(
    (
        *("no_text", "msg_too_long", "msg_blocks_too_long", "invalid_blocks", "invalid_arguments"),
        *("invalid_attachments", "too_many_attachments", "invalid_json", "json_not_object"),
        *("invalid_form_data", "invalid_array_arg", "invalid_charset", "invalid_blocks_format"),
    )
)
"""These very bytes are refused, and will be again."""
GONE = frozenset(
    ("message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found")
)
"""The message that was to be changed is not there, or not ours any more."""


class SlackError(DeliveryError):
    """Slack's answer was `ok: false`; `word` is its reason."""

    def __init__(self, word: str) -> None:
        remedy = "see the method's errors at docs.slack.dev"
        if word in HEALS:
            remedy = "invite the bot to the channel, or store a token with `chat:write`"
        super().__init__(
            f"Slack refused: {word}",
            remedy,
            permanent=word in NEVER,
            retry_after=SLOW_RETRY if word in HEALS else None,
        )
        self.word = word


@dataclass(frozen=True, slots=True)
class Posted:
    """Where a message stands."""

    channel: str
    ts: str


class Memory:
    """Which message tells of which alert; one small table of the state file."""

    def __init__(self, db: StateDB) -> None:
        self._db = db
        db.migrate("slack_messages", _STEPS)

    def find(self, key: str) -> Posted | None:
        """The message about the alert `key`, if one is known."""
        rows = self._db.query("SELECT channel, ts FROM slack_messages WHERE dedup_key = ?", (key,))
        return Posted(rows[0]["channel"], rows[0]["ts"]) if rows else None

    def keep(self, key: str, posted: Posted, now: UnixTime) -> None:
        """Remember it, and forget what is a month old."""
        with self._db.transaction() as cursor:
            cursor.execute("DELETE FROM slack_messages WHERE posted_at < ?", (now - _KEPT_FOR,))
            cursor.execute(
                "INSERT OR REPLACE INTO slack_messages VALUES (?,?,?,?)",
                (key, posted.channel, posted.ts, now),
            )

    def forget(self, key: str) -> None:
        """The alert is over: its next firing is a message of its own."""
        with self._db.transaction() as cursor:
            cursor.execute("DELETE FROM slack_messages WHERE dedup_key = ?", (key,))


class SlackBotNotifier:
    """One channel, through the Web API."""

    name = "slack"
    rate = Rate(per_second=0.95, burst=3)

    def __init__(
        self, config: Slack, reader: SecretReader | None, learn: Learn, db: StateDB
    ) -> None:
        assert config.bot_token is not None
        self.route = Route(self.name, frozenset(config.severities))
        self.timeout: Seconds = config.timeout
        self.credential = Credential(config.bot_token, "Slack bot token", reader, learn)
        self._api = config.api_url.rstrip("/")
        self._channel = config.channel
        self._connection = Connection()
        self._memory = Memory(db)

    def send(self, notification: Notification, now: UnixTime) -> None:
        """Post, change or answer one message. Raises DeliveryError."""
        n = notification
        body: dict[str, Any] = dict(message(n, self._channel))
        body.pop("username")  # a bot speaks under its own name; another needs one more scope
        known = self._memory.find(n.dedup_key)
        if known is not None and n.status == "resolved":
            if self._call_unless_gone("chat.update", self._at(body, known, "ts"), now) is None:
                self._call("chat.postMessage", body, now)
        elif known is not None and n.repeated:
            reply = {**self._at(body, known, "thread_ts"), "reply_broadcast": True}
            if self._call_unless_gone("chat.postMessage", reply, now) is None:
                self._keep(n, self._call("chat.postMessage", body, now), now)
        else:
            answer = self._call("chat.postMessage", body, now)
            if n.status == "firing":
                self._keep(n, answer, now)
        if n.status == "resolved" and known is not None:
            self._memory.forget(n.dedup_key)

    def _at(self, body: dict[str, Any], posted: Posted, name: str) -> dict[str, Any]:
        return {**body, "channel": posted.channel, name: posted.ts}

    def _keep(self, n: Notification, answer: dict[str, Any], now: UnixTime) -> None:
        channel, ts = answer.get("channel"), answer.get("ts")
        if isinstance(channel, str) and isinstance(ts, str):
            self._memory.keep(n.dedup_key, Posted(channel, ts), now)

    def _call_unless_gone(
        self, method: str, body: dict[str, Any], now: UnixTime
    ) -> dict[str, Any] | None:
        """The answer; None when the message that it is about is not there any more."""
        try:
            return self._call(method, body, now)
        except SlackError as error:
            if error.word not in GONE:
                raise
            return None

    def _call(self, method: str, body: dict[str, Any], now: UnixTime) -> dict[str, Any]:
        headers = bearer(self.credential)
        url = f"{self._api}/{method}"
        raw = as_json(body)
        answer = post(self._connection, "Slack", url, raw, self.timeout, now, headers)
        try:
            tree = json.loads(answer.body)
        except ValueError:
            tree = None
        if not isinstance(tree, dict) or not isinstance(tree.get("ok"), bool):
            raise DeliveryError(
                f"Slack answered {answer.status} without `ok`",
                "check that alerts.slack.api_url is Slack's Web API",
            )
        if not tree["ok"]:
            raise SlackError(str(tree.get("error", "unknown"))[:60])
        return tree

    def close(self) -> None:
        self._connection.close()
