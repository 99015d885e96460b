"""A keep-alive HTTP/1.1 client for the read path: a deadline over the whole call, bounded answers.

http.client and the libraries above it bound each wait for bytes, so that a server which drips one
byte at a time holds a reader for ever; they cost up to 90 ms at start besides. Here the bytes are
h11's to understand and ours to wait for:
1. an idle connection is taken, if the server has not closed it meanwhile; else a new one is made
2. before each wait the socket's timeout is set to what the deadline leaves
3. the body is gathered up to a bound; a redirect is an error, since a token would follow it
4. a reused connection that dies before the first byte of an answer is replaced once, where the
   request may be repeated
5. the connection goes back if h11 says that the next request may use it

Looking up a host's name is the C library's work: it is bounded by resolv.conf, not by the deadline.
Nothing of a request or an answer is ever part of an error: both carry secrets.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import h11

from agent.secrets.errors import UnavailableError
from agent.secrets.providers.deadline import Deadline
from agent.units import Bytes, Seconds

if TYPE_CHECKING:
    from agent.secrets.providers.tls import TlsContexts

MAX_BODY = Bytes(8 * 1024 * 1024)
_MAX_HEAD = 64 * 1024
_MAX_IDLE = 4
_CHUNK = 64 * 1024


class ThrottledError(UnavailableError):
    """The backend asks for patience; `retry_after` is how long, where it said so."""

    def __init__(self, message: str, remedy: str = "", retry_after: Seconds | None = None) -> None:
        super().__init__(message, remedy)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. Header names are in lower case; the body is never shown."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def retry_after(self) -> Seconds | None:
        """The wait that the server asks for, where it gives a number of seconds."""
        text = self.headers.get("retry-after", "")
        return Seconds(min(float(text), 3600.0)) if text.isdecimal() else None


class HttpClient:
    """Connections to one server. Safe from any thread."""

    def __init__(
        self,
        url: str,
        *,
        tls: TlsContexts | None = None,
        max_body: Bytes = MAX_BODY,
    ) -> None:
        """Nothing is connected yet. `url` is the server's, with an optional path before every
        target; `tls` is needed for https."""
        parts = urlsplit(url)
        self.secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.secure else 80)
        self.base = parts.path.rstrip("/")
        default = self.port == (443 if self.secure else 80)
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.authority = shown if default else f"{shown}:{self.port}"
        self.shown = f"{parts.scheme}://{self.authority}"
        self._tls = tls
        self._max_body = max_body
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        deadline: Deadline,
        repeatable: bool = True,
    ) -> Answer:
        """Send one request and read the whole answer, whatever its status.

        Raises:
            UnavailableError: no complete answer within the deadline, or one past a bound, or a
                redirect.
        """
        fields = {"Host": self.authority, "Content-Length": str(len(body)), **headers}
        if method in ("GET", "LIST") and not body:
            del fields["Content-Length"]
        request = h11.Request(
            method=method, target=self.base + target, headers=list(fields.items())
        )
        while True:
            connection, reused = self._take(deadline)
            try:
                answer = connection.ask(request, body, deadline, self._max_body)
            except (OSError, h11.ProtocolError, _EndedError) as error:
                heard = connection.heard
                connection.close()
                if reused and repeatable and not heard and not isinstance(error, TimeoutError):
                    continue
                raise self._translated(error) from None
            except BaseException:
                connection.close()
                raise
            self._give_back(connection)
            if 300 <= answer.status < 400:
                raise UnavailableError(
                    f"{self.shown} answered with a redirect ({answer.status}), which is not"
                    " followed",
                    "name the address that it leads to",
                )
            return answer

    def close(self) -> None:
        """Close what is idle; a call under way finishes on its own."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self, deadline: Deadline) -> tuple[_Connection, bool]:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect(deadline), False
            if connection.alive():
                return connection, True
            connection.close()

    def _give_back(self, connection: _Connection) -> None:
        if connection.ready_again():
            with self._lock:
                if len(self._idle) < _MAX_IDLE:
                    self._idle.append(connection)
                    return
        connection.close()

    def _connect(self, deadline: Deadline) -> _Connection:
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError:
            raise UnavailableError(
                f"the name {self.host} cannot be looked up", "correct it, or the resolver"
            ) from None
        last: OSError = TimeoutError()
        for tried, (family, kind, protocol, _, address) in enumerate(found):
            left = deadline.left()
            if left <= 0:
                break
            raw = socket.socket(family, kind, protocol)
            try:
                raw.settimeout(left / (len(found) - tried))
                raw.connect(address)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return _Connection(self._secured(raw, deadline))
            except OSError as error:
                raw.close()
                last = error
            except BaseException:
                raw.close()
                raise
        raise self._translated(last) from None

    def _secured(self, raw: socket.socket, deadline: Deadline) -> socket.socket:
        if not self.secure:
            return raw
        if self._tls is None:
            raise UnavailableError(f"{self.shown} needs TLS, which is not configured")
        raw.settimeout(max(0.001, deadline.left()))
        return self._tls.wrap(raw, self.host)

    def _translated(self, error: Exception) -> UnavailableError:
        remedy = "check that it runs and that the network lets this pod reach it"
        if isinstance(error, TimeoutError):
            return UnavailableError(f"{self.shown} did not answer in time", remedy)
        if isinstance(error, ConnectionRefusedError):
            return UnavailableError(f"{self.shown} refuses connections", remedy)
        if isinstance(error, _EndedError):
            return UnavailableError(f"{self.shown}: {error}", "see that server's own log")
        if isinstance(error, h11.ProtocolError):
            return UnavailableError(
                f"{self.shown} broke off, or answered with something that is not HTTP",
                "see that server's own log, and any proxy between",
            )
        verify = getattr(error, "verify_message", None)
        if verify:
            return UnavailableError(
                f"the certificate of {self.shown} is not accepted: {verify}",
                "name its CA in `tls.ca_file`, and its name in `tls.server_name` where they differ",
            )
        if isinstance(error, ConnectionError):
            return UnavailableError(f"{self.shown} closed the connection", remedy)
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
        return UnavailableError(f"{self.shown}: {reason or type(error).__name__}", remedy)


class _EndedError(Exception):
    """An answer went past a bound. The text is ours."""


class _Connection:
    """One socket and what h11 knows of it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self.heard = False

    def ask(self, request: h11.Request, body: bytes, deadline: Deadline, max_body: Bytes) -> Answer:
        self.heard = False
        data = self._wire.send(request) or b""
        if body:
            data += self._wire.send(h11.Data(data=body)) or b""
        data += self._wire.send(h11.EndOfMessage()) or b""
        self._patience(deadline)
        self._sock.sendall(data)
        head: h11.Response | None = None
        kept = bytearray()
        while True:
            event = self._wire.next_event()
            if event is h11.NEED_DATA:
                self._patience(deadline)
                received = self._sock.recv(_CHUNK)
                self.heard = self.heard or bool(received)
                self._wire.receive_data(received)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                kept += event.data
                if len(kept) > max_body:
                    raise _EndedError(f"an answer is larger than {max_body} bytes")
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None  # h11 keeps the order
                fields = {name.decode(): value.decode("latin-1") for name, value in head.headers}
                return Answer(head.status_code, fields, bytes(kept))
            elif not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError  # it was closed before any answer

    def alive(self) -> bool:
        """False when the server has closed it, or says something that nobody asked for."""
        if self._sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def ready_again(self) -> bool:
        if self._wire.our_state is not h11.DONE or self._wire.their_state is not h11.DONE:
            return False
        self._wire.start_next_cycle()
        return True

    def close(self) -> None:
        self._sock.close()

    def _patience(self, deadline: Deadline) -> None:
        left = deadline.left()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
