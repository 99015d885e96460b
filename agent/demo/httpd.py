"""The little HTTP that the demo's two programs share: a threading server, answers, clean SIGTERM.

For the demo only: it trusts its peers to be on this machine. The agent's own face is `agent.web`.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BODY = 512 * 1024


class Handler(BaseHTTPRequestHandler):
    """Answers with a length, keeps connections open, logs nothing."""

    protocol_version = "HTTP/1.1"
    timeout = 30.0
    disable_nagle_algorithm = True

    def answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        """Send one whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, status: int, tree: Any) -> None:
        """Send `tree` as JSON."""
        self.answer(status, json.dumps(tree).encode(), "application/json")

    def body(self) -> bytes | None:
        """The request's body; None, after answering 413 or 411, when it cannot be taken."""
        try:
            length = int(self.headers["Content-Length"])
        except (TypeError, ValueError):
            self.close_connection = True
            self.answer(411, b"length required\n")
            return None
        if not 0 <= length <= MAX_BODY:
            self.close_connection = True
            self.answer(413, b"too large\n")
            return None
        return self.rfile.read(length)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Requests are not logged: the story tells what matters."""


class Server(ThreadingHTTPServer):
    """One thread a connection; all of them end with the process."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT` → both.

    Raises:
        ValueError: not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host or "127.0.0.1", int(port)


def serve(server: Server, name: str, beside: Callable[[threading.Event], None]) -> int:
    """Answer requests in the background and run `beside` until SIGTERM or SIGINT; return 0.

    Prints one line with the address first, so that whoever started the program knows the port.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="http", daemon=True)
    thread.start()
    host, port = server.server_address[:2]
    print(f"{name} listens on http://{host!s}:{port}", flush=True)
    try:
        beside(stop)
    finally:
        server.shutdown()
        server.server_close()
    return 0
