"""A server on loopback that misbehaves on demand: what a backend's worst day looks like.

Each connection is answered by one `Fault`: bytes that are written as they are, slowly or at once,
and an end. It reads the request's head first, so a client is never cut off while it sends.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Fault = Callable[[socket.socket], None]


class FaultServer:
    """Answers every connection by `fault`; `hits` counts requests. A context manager."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.hits = 0
        self.requests: list[bytes] = []
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self._accept, name="fault-server", daemon=True)
        self._threads.append(thread)
        thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10.0)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while request := read_request(connection):
                self.hits += 1
                self.requests.append(request)
                self.fault(connection)
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


def read_request(connection: socket.socket) -> bytes:
    """One request with its body; empty when the client has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65536)
        if not received:
            return b""
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        received = connection.recv(65536)
        if not received:
            break
        body += received
    return head + b"\r\n\r\n" + body


def response(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole answer."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def says(data: bytes) -> Fault:
    """Answer with exactly these bytes, and keep the connection."""
    return lambda connection: connection.sendall(data)


def silent(connection: socket.socket) -> None:
    """Accept, read, and never say anything."""
    while connection.recv(65536):
        pass


def reset(connection: socket.socket) -> None:
    """Cut the connection off with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def truncated(body: bytes) -> Fault:
    """Promise more than is sent, then end."""

    def fault(connection: socket.socket) -> None:
        connection.sendall(response(body).replace(str(len(body)).encode(), b"99999", 1))
        connection.shutdown(socket.SHUT_RDWR)

    return fault


def drip(data: bytes, every: float = 0.05) -> Fault:
    """One byte at a time: each wait is short, the whole never ends."""

    def fault(connection: socket.socket) -> None:
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
            time.sleep(every)

    return fault


def endless(connection: socket.socket) -> None:
    """A body that never ends, as fast as it is taken."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    while True:
        connection.sendall(chunk)
