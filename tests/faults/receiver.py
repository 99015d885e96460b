"""A receiver of pages that misbehaves on command, and a target that does.

    with FaultyReceiver() as receiver:
        receiver.plan(429, 503, "hang", "reset", "half")   # the next answers; then sound ones
        receiver.url("/v2/enqueue")

It speaks enough of PagerDuty's Events v2 (202 and a JSON body) and of Slack's webhooks (200 and
`ok`) for a notifier to accept it, and keeps what it accepted, in order.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Fault = int | str


class FaultyReceiver:
    """An HTTP server of this process, on a free port of 127.0.0.1."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[float, str, dict[str, str]]] = []
        self.accepted: list[dict[str, Any]] = []
        self.refusals = 0
        self.retry_after: str | None = None
        self.always: Fault | None = None
        self.answer: Callable[[_Handler], None] | None = None
        self.released = threading.Event()
        self._plan: list[Fault] = []
        self._lock = threading.Lock()
        handler = type("Bound", (_Handler,), {"receiver": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.drop()
        self._server.server_close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def plan(self, *faults: Fault) -> None:
        """What the next requests meet: a status, `hang`, `drip`, `reset`, `half`, `silent`."""
        with self._lock:
            self._plan.extend(faults)

    def next(self) -> Fault | None:
        with self._lock:
            if self._plan:
                return self._plan.pop(0)
            return self.always

    def keys(self, action: str) -> list[str]:
        """Dedup keys that were accepted with this PagerDuty action, in order."""
        return [e["dedup_key"] for e in self.accepted if e.get("event_action") == action]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def drop(self) -> None:
        """Cut whoever is still connected, so that no thread outlives the test."""
        for request in list(self.open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    receiver: FaultyReceiver

    def do_GET(self) -> None:
        self._meet(b"")

    def do_POST(self) -> None:
        self._meet(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _meet(self, body: bytes) -> None:
        receiver = self.receiver
        receiver.requests.append((time.monotonic(), self.path, dict(self.headers.items())))
        if receiver.answer is not None:
            receiver.answer(self)
            return
        fault = receiver.next()
        if fault is None:
            self._accept(body)
        elif isinstance(fault, int):
            receiver.refusals += 1
            self.reply(fault, b"no")
        else:
            receiver.refusals += 1
            getattr(self, f"fault_{fault}")()

    def _accept(self, body: bytes) -> None:
        tree = json.loads(body)
        self.receiver.accepted.append(tree)
        if self.path.startswith("/services/"):
            self.reply(200, b"ok")
        elif self.path.startswith("/hook"):
            self.reply(200, b"")
        else:
            told = {"status": "success", "dedup_key": tree["dedup_key"]}
            self.reply(202, json.dumps(told).encode())

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status in (429, 503) and self.receiver.retry_after is not None:
            self.send_header("Retry-After", self.receiver.retry_after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fault_hang(self) -> None:
        """Says nothing until the test is over or the peer gives up."""
        self.receiver.released.wait(30.0)
        self.close_connection = True

    def fault_drip(self) -> None:
        """A header byte now and then: no single read ever times out."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.receiver.released.wait(0.05):
            self.wfile.write(b"a")

    def fault_drip_body(self) -> None:
        """The same in an endless body."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not self.receiver.released.wait(0.05):
            self.wfile.write(b"a 1\n")

    def fault_reset(self) -> None:
        """A TCP reset instead of an answer."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    def fault_half(self) -> None:
        """Half of the promised body."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n{")

    def fault_silent(self) -> None:
        """Closes without a word."""
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base names it so
        """Requests are in `requests`."""
