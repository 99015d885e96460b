"""Slack's Web API as a bot sees it: messages that are posted, changed and answered.

Refuses what the service refuses (`ok: false` and a word), keeps a channel's messages by `ts`, and
meets the next calls with what a test planned: a status, or a word.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from agent.demo.receiver import slack_error

TOKEN = "xoxb-of-this-test-alone"


class SlackApi:
    """An HTTP server of this process, on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.messages: dict[str, dict[str, Any]] = {}
        self.planned: list[int | str] = []
        handler = type("Bound", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the service says to a call, and what it does to the channel."""
        error = slack_error(body)
        if error or body.get("channel") not in ("#trading-alerts", "C042"):
            return {"ok": False, "error": error or "channel_not_found"}
        if method == "chat.update":
            if body.get("ts") not in self.messages:
                return {"ok": False, "error": "message_not_found"}
            ts = body["ts"]
        else:
            ts = f"1750000000.{len(self.messages):06d}"
        self.messages[ts] = body
        return {"ok": True, "channel": "C042", "ts": ts}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: SlackApi

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = self.path.rpartition("/")[2]
        self.api.calls.append((method, body))
        status, told = 200, {"ok": False, "error": "not_authed"}
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            plan = self.api.planned.pop(0) if self.api.planned else None
            if isinstance(plan, int):
                status, told = plan, {"ok": False, "error": "ratelimited"}
            elif plan is not None:
                told = {"ok": False, "error": plan}
            else:
                told = self.api.answer(method, body)
        raw = json.dumps(told).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "30")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base names it so
        """Calls are in `calls`."""
