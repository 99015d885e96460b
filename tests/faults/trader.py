"""A trader's /health on loopback, that says what a test tells it to, well or ill."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class TraderStub:
    """`url` answers with `body` and `status`; `version` may be a function, asked each time."""

    def __init__(self) -> None:
        self.status = 200
        self.indicators: dict[str, Any] = {
            "model_loaded": True,
            "risk_system_active": True,
            "database_connected": True,
        }
        self.version: Callable[[], str | None] = lambda: None
        self.raw: bytes | None = None
        self.drip = 0.0
        """Seconds between two bytes of the answer."""
        self.asked = 0
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.answer(self)

            def log_message(self, *_args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/health"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked += 1
        body = self.raw
        if body is None:
            body = json.dumps({**self.indicators, "model_version": self.version()}).encode()
        try:
            handler.send_response(self.status)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            if not self.drip:
                handler.wfile.write(body)
                return
            for byte in body:
                handler.wfile.write(bytes([byte]))
                time.sleep(self.drip)
        except (BrokenPipeError, ConnectionResetError):
            return  # the asker has hung up, which is its right

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
