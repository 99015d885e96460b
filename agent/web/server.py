"""A small read-only HTTP/1.1 server on asyncio and h11: it decides how bytes become requests and
answers, and leaves what is answered to a handler.

It takes GET and HEAD without a body, and nothing else: no route can change anything. Everything a
peer may make it keep is bounded: the size of a request's head, the time to send one, the time to
take an answer, the time to say nothing, the number of connections. When all connections are in use,
the one that has been silent longest between two requests gives way; without such a one, the oldest
that has not sent a whole head, of the address that has the most of them. So neither a forgotten
browser tab nor a thousand half-sent requests keep a probe out. A handler that raises is a 500
without details and one log line.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qs

import h11

from agent.errors import UsageError
from agent.telemetry.logs import get_logger
from agent.units import Bytes, Seconds

_log = get_logger(__name__)

TEXT = "text/plain; charset=utf-8"

_HEAD = Bytes(8 * 1024)
_HEAD_WITHIN = Seconds(5.0)
_IDLE = Seconds(30.0)
_WRITE_WITHIN = Seconds(10.0)
_ANY = "0.0.0.0"  # noqa: S104 - `:9900` means every interface: probes come from the node

_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)
_NOTHING_ALLOWED = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler may know: a path, the query's values by name, the headers in lower case."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]

    @property
    def accept(self) -> str:
        return self.headers.get("accept", "")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; Content-Length and the headers that every answer has are added by the server."""

    status: int
    body: bytes
    content_type: str = TEXT
    csp: str = _NOTHING_ALLOWED
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Response]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one peer, and all of them together, may ask of the server."""

    head: Bytes = _HEAD
    head_within: Seconds = _HEAD_WITHIN
    idle: Seconds = _IDLE
    write_within: Seconds = _WRITE_WITHIN
    connections: int = 64


class _RefusedError(Exception):
    """The request is answered with this and the connection is closed."""

    def __init__(self, status: int, told: str, *headers: tuple[str, str]) -> None:
        super().__init__(told)
        self.response = Response(status, f"{told}\n".encode(), headers=headers)


_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 21\r\nCache-Control: no-store\r\nRetry-After: 1\r\n"
    b"Connection: close\r\n\r\ntoo many connections\n"
)


@dataclass(eq=False, slots=True)
class _Peer:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    talk: h11.Connection
    task: asyncio.Task[None] | None = None
    address: str = ""
    idle: bool = False
    in_head: bool = True
    served: int = 0
    head_only: bool = False


class HttpServer:
    """Listens on one `HOST:PORT` (port 0: any free one) and answers by `handler`."""

    def __init__(self, listen: str, handler: Handler, bounds: Bounds | None = None) -> None:
        self._listen = listen
        self._handler = handler
        self._bounds = bounds or Bounds()
        self._server: asyncio.Server | None = None
        self._peers: dict[_Peer, None] = {}  # in the order in which they last went idle
        self._leaving = False

    async def start(self) -> tuple[str, int]:
        """Listen; return the host and the port that were bound.

        Raises:
            UsageError: the address is taken, not this machine's, or no address.
        """
        host, _, port = self._listen.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._accepted, host or _ANY, int(port), family=socket.AF_INET, backlog=128
            )
        except (OSError, OverflowError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UsageError(
                f"cannot listen on {self._listen}: {why}",
                "stop the process that has the port, or set web.listen",
            ) from error
        bound = self._server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    async def stop(self, grace: Seconds) -> None:
        """Take no more connections, let answers under way finish for up to `grace` seconds, close.

        May be called again, and before `start`.
        """
        self._leaving = True
        if self._server is not None:
            self._server.close()
        tasks = [peer.task for peer in self._peers if peer.task is not None]
        for peer in list(self._peers):
            if peer.idle:
                peer.writer.transport.abort()
        if tasks and grace > 0:
            await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    # -- connections --------------------------------------------------------------------------

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._leaving:
            writer.transport.abort()
            return
        if len(self._peers) >= self._bounds.connections and not self._make_room():
            writer.write(_FULL)
            writer.close()
            return
        # Nothing stays in a buffer behind our back: a drained answer is one the kernel has.
        writer.transport.set_write_buffer_limits(high=0)
        talk = h11.Connection(h11.SERVER, max_incomplete_event_size=self._bounds.head)
        peer = _Peer(
            reader, writer, talk, address=str((writer.get_extra_info("peername") or ("",))[0])
        )
        self._peers[peer] = None
        peer.task = asyncio.get_running_loop().create_task(self._serve(peer), name="web-peer")

    def _make_room(self) -> bool:
        peer = next((peer for peer in self._peers if peer.idle), None) or self._slowest()
        if peer is None:
            return False
        del self._peers[peer]
        peer.writer.transport.abort()
        return True

    def _slowest(self) -> _Peer | None:
        """The oldest without a whole head, of the address that has the most of these."""
        waiting = [peer for peer in self._peers if peer.in_head]
        held = Counter(peer.address for peer in waiting)
        return max(waiting, key=lambda peer: held[peer.address], default=None)

    async def _serve(self, peer: _Peer) -> None:
        try:
            await self._converse(peer)
            peer.writer.close()
        except (OSError, TimeoutError):
            pass  # the peer went, or took too long to take its answer
        except Exception:  # noqa: BLE001 - one connection's trouble never ends the server
            _log.exception("a connection was given up")
        finally:
            self._peers.pop(peer, None)
            if not peer.writer.is_closing():
                peer.writer.transport.abort()

    async def _converse(self, peer: _Peer) -> None:
        while True:
            try:
                request = await self._next_request(peer)
            except _RefusedError as refused:
                await self._refuse(peer, refused.response)
                return
            if request is None:
                return
            peer.in_head = False
            await self._send(peer, self._answer(request), close=self._leaving)
            if peer.talk.our_state is not h11.DONE or peer.talk.their_state is not h11.DONE:
                return
            peer.talk.start_next_cycle()
            peer.served += 1
            peer.in_head = True

    async def _refuse(self, peer: _Peer, response: Response) -> None:
        """Answer, then close without a reset: unread bytes would make the kernel throw away what
        was just written."""
        await self._send(peer, response, close=True)
        peer.writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                for _ in range(16):
                    if not await peer.reader.read(65536):
                        return

    # -- requests -----------------------------------------------------------------------------

    async def _next_request(self, peer: _Peer) -> Request | None:
        """The next request; None when the peer has left or said nothing for too long.

        Raises:
            _RefusedError: it is not one that is served.
        """
        talk = peer.talk
        peer.head_only = False
        try:
            event = talk.next_event()
            if event is h11.NEED_DATA and not talk.trailing_data[0]:
                if not await self._await_first_bytes(peer):
                    return None
                event = talk.next_event()
            async with asyncio.timeout(self._bounds.head_within):
                while event is h11.NEED_DATA:
                    talk.receive_data(await peer.reader.read(4096))
                    event = talk.next_event()
            if not isinstance(event, h11.Request):
                return None
            request = _checked(event, self._bounds.head)
            peer.head_only = request.method == "HEAD"
            talk.next_event()  # the end of a message without a body: nothing to wait for
            return request
        except TimeoutError:
            raise _RefusedError(408, "the request did not arrive in time") from None
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            told = "the request's head is too large" if status == 431 else "this is not HTTP/1.1"
            raise _RefusedError(status, told) from None

    async def _await_first_bytes(self, peer: _Peer) -> bool:
        wait = self._bounds.idle if peer.served else self._bounds.head_within
        if peer.served:  # to the end of the queue of those that may have to give way
            peer.idle = True
            self._peers[peer] = self._peers.pop(peer)
        try:
            async with asyncio.timeout(wait):
                data = await peer.reader.read(4096)
        except TimeoutError:
            return False
        finally:
            peer.idle = False
        if data:
            peer.talk.receive_data(data)
        return bool(data)

    def _answer(self, request: Request) -> Response:
        try:
            return self._handler(request)
        except Exception:  # noqa: BLE001 - whatever a page stumbles over, the next one is served
            _log.exception("a request could not be answered", path=request.path)
            return Response(500, b"the agent could not answer this; its log says why\n")

    async def _send(self, peer: _Peer, response: Response, *, close: bool) -> None:
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Content-Security-Policy", response.csp),
            *_ALWAYS,
            *response.headers,
        ]
        if close:
            headers.append(("Connection", "close"))
        reason = HTTPStatus(response.status).phrase.encode()
        events: list[h11.Event] = [
            h11.Response(status_code=response.status, headers=headers, reason=reason)
        ]
        if not peer.head_only:
            events.append(h11.Data(data=response.body))
        events.append(h11.EndOfMessage())
        peer.writer.write(b"".join(peer.talk.send(event) or b"" for event in events))
        async with asyncio.timeout(self._bounds.write_within):
            await peer.writer.drain()


def _checked(event: h11.Request, limit: Bytes) -> Request:
    """The request, if it is one that this server takes.

    Raises:
        _RefusedError: another method, a body, or a target that names no page.
    """
    size = len(event.target) + sum(len(name) + len(value) + 4 for name, value in event.headers)
    if size > limit:  # h11 bounds only what has not arrived whole
        raise _RefusedError(431, "the request's head is too large")
    method = event.method.decode("ascii")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
    if method not in ("GET", "HEAD"):
        raise _RefusedError(
            405, "only GET and HEAD: nothing is changed here", ("Allow", "GET, HEAD")
        )
    if headers.get("content-length", "0").strip("0") or "transfer-encoding" in headers:
        raise _RefusedError(413, "a request here has no body")
    target = event.target.decode("latin-1")
    if target[:7].lower() == "http://":  # the absolute form, which every server must take
        target = "/" + target[7:].partition("/")[2]
    if not target.startswith("/"):
        raise _RefusedError(400, "the target is not a path")
    path, _, query = target.partition("?")
    try:
        values = parse_qs(query, keep_blank_values=True, max_num_fields=64)
    except ValueError:
        raise _RefusedError(400, "the query has too many fields") from None
    return Request(method, path, values, headers)
