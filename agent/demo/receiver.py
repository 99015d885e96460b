"""The demo's receiver of pages: speaks PagerDuty's Events v2 and Slack's incoming webhooks.

    python -m agent.demo.receiver --listen 127.0.0.1:9911

It refuses what the real services refuse, in their words, so that a notifier that passes here sends
what they accept: `POST /v2/enqueue` (developer.pagerduty.com, Events API v2) and
`POST /services/T…/B…/…` (api.slack.com, incoming webhooks). `GET /events` lists what was received,
`GET /` shows it to a person. Memory only; the newest 1000 events are kept.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from agent.demo.httpd import Handler, Server, parse_listen, serve

_SEVERITIES = ("critical", "error", "warning", "info")
_ACTIONS = ("trigger", "acknowledge", "resolve")
_SLACK_PATH = re.compile(r"/services/T[A-Z0-9]+/B[A-Z0-9]+/[A-Za-z0-9]+")
_DEDUP_MAX, _SUMMARY_MAX, _KEY_LENGTH = 255, 1024, 32
_SLACK_TEXT_MAX, _SLACK_BLOCKS_MAX = 40_000, 50


def pagerduty_errors(event: object) -> list[str]:
    """What PagerDuty would refuse in an Events v2 body; empty when it would accept it."""
    if not isinstance(event, dict):
        return ["Event object must be a JSON object"]
    errors = []
    key = event.get("routing_key")
    if not isinstance(key, str) or len(key) != _KEY_LENGTH:
        errors.append(f"'routing_key' must be a {_KEY_LENGTH}-character string")
    action = event.get("event_action")
    if action not in _ACTIONS:
        errors.append("'event_action' must be one of trigger, acknowledge, resolve")
    dedup = event.get("dedup_key")
    if dedup is not None and not (isinstance(dedup, str) and 0 < len(dedup) <= _DEDUP_MAX):
        errors.append(f"'dedup_key' must be a string of at most {_DEDUP_MAX} characters")
    if dedup is None and action in ("acknowledge", "resolve"):
        errors.append("'dedup_key' is missing or blank")
    if action == "trigger" or event.get("payload") is not None:
        errors.extend(_payload_errors(event.get("payload")))
    return errors


def _payload_errors(payload: object) -> list[str]:
    if not isinstance(payload, dict):
        return ["'payload' is missing or is not an object"]
    errors = []
    summary = payload.get("summary")
    if not isinstance(summary, str) or not summary:
        errors.append("'payload.summary' is missing or blank")
    elif len(summary) > _SUMMARY_MAX:
        errors.append(f"'payload.summary' must be at most {_SUMMARY_MAX} characters")
    if payload.get("severity") not in _SEVERITIES:
        errors.append("'payload.severity' must be one of critical, error, warning, info")
    source = payload.get("source")
    if not isinstance(source, str) or not source:
        errors.append("'payload.source' is missing or blank")
    if "links" in payload or "images" in payload:
        errors.append("'links' and 'images' belong beside 'payload', not inside it")
    return errors


def slack_error(message: object) -> str | None:
    """The word with which Slack would refuse a webhook's body, or None."""
    if not isinstance(message, dict):
        return "invalid_payload"
    text, blocks = message.get("text"), message.get("blocks")
    attachments = message.get("attachments")
    if not text and not blocks and not attachments:
        return "no_text"
    if text is not None and not isinstance(text, str):
        return "invalid_payload"
    if text is not None and len(text) > _SLACK_TEXT_MAX:
        return "msg_too_long"
    if blocks is not None and not isinstance(blocks, list):
        return "invalid_blocks"
    if blocks is not None and len(blocks) > _SLACK_BLOCKS_MAX:
        return "invalid_blocks"
    if attachments is not None and not isinstance(attachments, list):
        return "invalid_attachments"
    return None


class Inbox:
    """What was received, newest last; safe between threads."""

    def __init__(self, limit: int = 1000) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=limit)
        self._lock = threading.Lock()
        self._count = 0

    def add(self, service: str, body: Mapping[str, Any], received_at: float) -> int:
        """Keep one event; return its number. A routing key is a credential: it is not kept."""
        shown = {name: value for name, value in body.items() if name != "routing_key"}
        with self._lock:
            self._count += 1
            self._events.append(
                {
                    "id": self._count,
                    "service": service,
                    "received_at": received_at,
                    "body": shown,
                }
            )
            return self._count

    def all(self) -> list[dict[str, Any]]:
        """A copy of the list."""
        with self._lock:
            return list(self._events)


def page(events: list[dict[str, Any]]) -> str:
    """The list for a person, newest first."""
    rows = []
    for event in reversed(events):
        at = time.strftime("%H:%M:%S", time.localtime(event["received_at"]))
        what, text = _headline(event)
        cells = (at, event["service"], what, text)
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in cells))
    body = "".join(rows) or "<tr><td colspan=4>nothing was received yet"
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2>"
        "<meta name=viewport content='width=device-width'><title>Received pages</title>"
        "<style>body{font:15px system-ui;margin:1rem}td,th{padding:.3rem .8rem;text-align:left;"
        "border-bottom:1px solid #ccc;vertical-align:top}</style><h1>Received pages</h1><table>"
        f"<tr><th>when<th>service<th>what<th>text{body}</table></html>"
    )


def _headline(event: Mapping[str, Any]) -> tuple[str, str]:
    body = event["body"]
    if event["service"] == "pagerduty":
        payload = body.get("payload") or {}
        return str(body.get("event_action")), str(payload.get("summary", body.get("dedup_key")))
    return "message", str(body.get("text") or "")[:300]


class ReceiverHandler(Handler):
    """Routes of the receiver."""

    inbox: Inbox

    def do_GET(self) -> None:  # noqa: N802 - the base names it so
        if self.path == "/events":
            self.answer_json(200, {"events": self.inbox.all()})
        elif self.path == "/":
            self.answer(200, page(self.inbox.all()).encode(), "text/html; charset=utf-8")
        elif self.path == "/health":
            self.answer_json(200, {"status": "healthy"})
        else:
            self.answer(404, b"not found\n")

    def do_POST(self) -> None:  # noqa: N802 - the base names it so
        received_at = time.time()
        body = self.body()
        if body is None:
            return
        try:
            tree: object = json.loads(body)
        except ValueError:
            tree = None
        if self.path == "/v2/enqueue":
            self._pagerduty(tree, received_at)
        elif _SLACK_PATH.fullmatch(self.path):
            self._slack(tree, received_at)
        elif self.path.startswith("/services/"):
            self.answer(404, b"no_service")
        else:
            self.answer(404, b"not found\n")

    def _pagerduty(self, event: object, received_at: float) -> None:
        errors = pagerduty_errors(event)
        if errors or not isinstance(event, dict):
            told = {"status": "invalid event", "message": "Event object is invalid"}
            self.answer_json(400, {**told, "errors": errors})
            return
        number = self.inbox.add("pagerduty", event, received_at)
        key = event.get("dedup_key") or f"receiver-{number}"
        told = {"status": "success", "message": "Event processed", "dedup_key": key}
        self.answer_json(202, told)

    def _slack(self, message: object, received_at: float) -> None:
        error = slack_error(message)
        if error or not isinstance(message, dict):
            self.answer(400, (error or "invalid_payload").encode())
            return
        self.inbox.add("slack", message, received_at)
        self.answer(200, b"ok")


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m agent.demo.receiver", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:9911", metavar="HOST:PORT")
    arguments = parser.parse_args(argv)
    handler = type("BoundReceiverHandler", (ReceiverHandler,), {"inbox": Inbox()})
    server = Server(parse_listen(arguments.listen), handler)
    return serve(server, "receiver", _wait)


def _wait(stop: threading.Event) -> None:
    stop.wait()


if __name__ == "__main__":
    raise SystemExit(main())
