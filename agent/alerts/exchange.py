"""One HTTP exchange with a deadline over all of it, and foreign errors turned into words once.

A socket's timeout starts anew with every byte, so a peer that drips its answer holds a plain client
for ever. Here a timer shuts the socket down at the deadline, whatever the client is waiting for:
headers, body, or the TLS handshake. Redirects are not followed, bodies are bounded (also after
gzip), and no message that leaves this module holds a URL: a Slack webhook's URL is a credential,
and urllib3's own messages quote it. Blocking. urllib3 is imported with the first `Connection`.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from agent import __version__
from agent.units import Bytes, Seconds

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection

USER_AGENT = f"jules-agent/{__version__}"
_CHUNK = 65536
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class ExchangeError(Exception):
    """An exchange failed. The message says how, without address or credential."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A keep-alive connection to wherever the last URL pointed. For one thread at a time."""

    def __init__(self) -> None:
        # Imported here, in the thread that builds the job: two threads that import urllib3 for the
        # first time at one moment break each other (KeyError: 'urllib3', seen on CPython 3.11).
        import urllib3.connection

        self._urllib3 = urllib3
        self._open: HTTPConnection | None = None
        self._origin: tuple[str, str] = ("", "")
        self._socket: socket.socket | None = None
        self._cut = False

    def exchange(
        self,
        method: str,
        url: str,
        *,
        deadline: Seconds,
        max_body: Bytes,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Ask once and read the whole answer.

        Args:
            method: `GET` or `POST`. A GET is asked again when a kept connection turns out closed.
            url: absolute; https is verified against the system's authorities.
            deadline: seconds for everything: connecting, headers and body.
            max_body: the largest answer that is read, after decompression.

        Raises:
            ExchangeError: no whole answer in time; the connection is closed.
        """
        ends = time.monotonic() + deadline
        parts = urlsplit(url)
        asked = dict(headers or {})
        asked.setdefault("User-Agent", USER_AGENT)
        kept = self._reusable(parts)
        try:
            return self._once(method, parts, asked, body, ends, max_body)
        except ExchangeError:
            if not kept or method != "GET" or self._cut or time.monotonic() >= ends:
                raise
        return self._once(method, parts, asked, body, ends, max_body)

    def close(self) -> None:
        """Let go of the socket."""
        if self._open is not None:
            self._open.close()
            self._open = None
        self._socket = None

    def _reusable(self, parts: SplitResult) -> bool:
        """Drop a connection to another origin, or one that the peer has closed meanwhile."""
        if self._open is not None and (
            self._origin != (parts.scheme, parts.netloc) or not self._open.is_connected
        ):
            self.close()
        return self._open is not None

    def _once(
        self,
        method: str,
        parts: SplitResult,
        headers: dict[str, str],
        body: bytes | None,
        ends: float,
        max_body: Bytes,
    ) -> Answer:
        left = max(0.001, ends - time.monotonic())
        self._cut = False
        timer = threading.Timer(left, self._cut_off)
        timer.daemon = True
        timer.start()
        try:
            connection = self._connection(parts, left)
            if connection.sock is None:
                connection.connect()
            # http.client forgets a socket whose answer ends with the connection: the timer may not.
            self._socket = connection.sock
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request(
                method,
                path,
                body=body,
                headers=headers,
                preload_content=False,
                decode_content=False,
            )
            _acknowledge_at_once(connection.sock)
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.headers.items()}
            content = _read(response, told.get("content-encoding", ""), max_body)
            if self._cut:
                raise TimeoutError
            if response.headers.get("connection", "").lower() == "close" or response.version < 11:
                self.close()
        except ExchangeError:
            self.close()
            raise
        except (
            self._urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            ValueError,
            AttributeError,
        ) as error:
            # AttributeError: http.client trips over a socket that the timer has closed under it.
            self.close()
            late = self._cut or time.monotonic() >= ends
            raise ExchangeError(_late() if late else why(error)) from None
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
        return Answer(response.status, told, content)

    def _connection(self, parts: SplitResult, timeout: float) -> HTTPConnection:
        connections = self._urllib3.connection
        if self._open is None:
            self._origin = (parts.scheme, parts.netloc)
            host = parts.hostname or ""
            if parts.scheme == "https":
                self._open = connections.HTTPSConnection(
                    host, parts.port or 443, timeout=timeout, ssl_context=_tls()
                )
            else:
                self._open = connections.HTTPConnection(host, parts.port or 80, timeout=timeout)
        elif self._open.sock is not None:
            self._open.sock.settimeout(timeout)
        return self._open

    def _cut_off(self) -> None:
        """The deadline has come: whatever the other thread waits for ends now."""
        self._cut = True
        connection = self._open
        sock = self._socket or (connection.sock if connection is not None else None)
        if sock is not None:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # also below TLS
            except OSError:
                return  # already closed


def _acknowledge_at_once(sock: socket.socket | None) -> None:
    """A server that writes head and body apart waits up to 40 ms for the head's acknowledgement."""
    if sock is not None and _QUICKACK is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _read(response: Any, encoding: str, limit: Bytes) -> bytes:
    """The whole body, decompressed by us so that a small bomb cannot fill the memory."""
    if encoding not in ("", "identity", "gzip"):
        raise ExchangeError("the answer has a content encoding that was not asked for")
    unzip = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    pieces: list[bytes] = []
    size = 0
    while chunk := response.read(_CHUNK, decode_content=False):
        while chunk:
            piece = chunk
            chunk = b""
            if unzip is not None:
                try:
                    piece = unzip.decompress(piece, limit + 1 - size)
                except zlib.error:
                    raise ExchangeError("the answer is not the gzip that it says it is") from None
                chunk = unzip.unconsumed_tail
            size += len(piece)
            if size > limit:
                raise ExchangeError(f"the answer is larger than {limit} bytes")
            pieces.append(piece)
    if unzip is not None and not unzip.eof:
        raise ExchangeError("the answer broke off")
    return b"".join(pieces)


def _late() -> str:
    return "no whole answer before the deadline"


def why(error: BaseException) -> str:
    """What happened, in words that quote nothing of the request."""
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    chain.extend(
        item for link in list(chain) for item in link.args if isinstance(item, BaseException)
    )
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return f"the certificate was not accepted: {link.verify_message}"
        if isinstance(link, ssl.SSLError):
            return f"TLS failed: {link.reason or 'the peer does not speak it'}"
        if isinstance(link, socket.gaierror):
            return "the host's name does not resolve"
    for kind, told in _WORDS:
        if any(isinstance(link, kind) for link in chain):
            return told
    return f"the exchange failed ({type(error).__name__})"


_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "the connection was refused"),
    (ConnectionResetError, "the peer closed the connection"),
    (BrokenPipeError, "the peer closed the connection"),
    (http.client.RemoteDisconnected, "the peer closed the connection without an answer"),
    (http.client.IncompleteRead, "the answer broke off"),
    (TimeoutError, _late()),
    (http.client.HTTPException, "the answer is not HTTP"),
)


def is_loopback(url: str) -> bool:
    """Whether `url` points at this machine by name or address."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_safe(url: str) -> bool:
    """Whether a credential may be sent there: https, or this very machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (parts.scheme == "https" or is_loopback(url))
