"""GET over plain HTTP on one kept socket, for what is asked several times a second.

It understands an answer of 200 with a Content-Length, as every metrics library gives it; anything
else (another status, chunks, an encoding, a close) is `NotPlainError`, and the caller asks again
with the general client. The deadline is one for everything: each read gets what is left of it. The
kernel is told to acknowledge at once: a server that writes head and body apart otherwise waits 40
ms for the acknowledgement of the head. Blocking.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from agent.alerts.exchange import USER_AGENT, ExchangeError, why
from agent.units import Bytes, Seconds

_CHUNK = 65536
_LONGEST_HEAD = 32 * 1024
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class NotPlainError(Exception):
    """The answer is not of the one kind that is understood here."""


def is_plain(url: str) -> bool:
    """Whether this module may be tried: http, and no credentials in the URL."""
    return url.startswith("http://") and "@" not in url.partition("?")[0]


class PlainConnection:
    """A kept connection to wherever the last URL pointed. For one thread at a time."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._url = ""
        self._request = b""
        self._place = ("", 0)

    def get(
        self, url: str, headers: Mapping[str, str], deadline: Seconds, max_body: Bytes
    ) -> bytes:
        """The body of an answer of 200.

        Raises:
            ExchangeError: no whole answer in time, or too large; the connection is closed.
            NotPlainError: an answer, but not one that is understood here.
        """
        ends = time.monotonic() + deadline
        if url != self._url:
            self._prepare(url, headers)
        kept = self._socket is not None
        try:
            try:
                return self._once(ends, max_body)
            except (ConnectionError, _EndedError):
                self.close()
                if not kept:
                    raise
                return self._once(ends, max_body)  # the server had closed what was kept
        except (OSError, _EndedError) as error:
            self.close()
            late = isinstance(error, TimeoutError) or time.monotonic() >= ends
            told = "no whole answer before the deadline" if late else why(error)
            if isinstance(error, _EndedError) and not late:
                told = "the answer broke off"
            raise ExchangeError(told) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _prepare(self, url: str, headers: Mapping[str, str]) -> None:
        self.close()
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"GET {path} HTTP/1.1", f"Host: {parts.netloc}", f"User-Agent: {USER_AGENT}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii", "strict")
        self._place = (parts.hostname or "", parts.port or 80)
        self._url = url

    def _once(self, ends: float, max_body: Bytes) -> bytes:
        if self._socket is None:
            self._socket = socket.create_connection(self._place, timeout=_left(ends))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = self._socket
        sock.settimeout(_left(ends))
        sock.sendall(self._request)
        if _QUICKACK is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _LONGEST_HEAD:
                raise NotPlainError
            data += _receive(sock, ends)
        length = _length(data[:end])
        if length > max_body:
            raise ExchangeError(f"the answer is larger than {max_body} bytes")
        pieces = [data[end + 4 :]]
        have = len(pieces[0])
        while have < length:
            pieces.append(_receive(sock, ends))
            have += len(pieces[-1])
        if have > length:  # more than was announced: nothing on this connection can be trusted
            raise NotPlainError
        return b"".join(pieces)


class _EndedError(Exception):
    """The peer closed in the middle."""


def _receive(sock: socket.socket, ends: float) -> bytes:
    sock.settimeout(_left(ends))
    piece = sock.recv(_CHUNK)
    if not piece:
        raise _EndedError
    return piece


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _length(head: bytes) -> int:
    """The body's length that the head of an answer tells."""
    status, _, rest = head.partition(b"\r\n")
    if not status.startswith(b"HTTP/1.1 "):
        raise NotPlainError
    code = status[9:12]
    if code != b"200":
        raise ExchangeError(f"answered {code.decode('ascii', 'replace')}")
    length = -1
    for line in rest.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name, value = name.strip().lower(), value.strip()
        if name == b"content-length" and length < 0 and value.isdigit():
            length = int(value)
        elif name in (b"transfer-encoding", b"connection", b"content-length"):
            if value.lower() != b"keep-alive":
                raise NotPlainError
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise NotPlainError
    if length < 0:
        raise NotPlainError
    return length
