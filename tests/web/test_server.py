"""The HTTP server against raw sockets: what it takes, what it refuses, and that it goes on."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import UsageError
from agent.units import Bytes, Seconds
from agent.web.server import Bounds, Handler, HttpServer, Request, Response
from tests.web.conftest import Serve, read_answer

T = TypeVar("T")


def echo(request: Request) -> Response:
    return Response(200, f"{request.method} {request.path} {dict(request.query)}".encode())


async def test_every_answer_has_a_length_and_is_neither_kept_nor_sniffed_nor_framed(
    serve: Serve,
) -> None:
    answer = await (await serve(echo)).get("/")
    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(answer.body) > 0
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["x-frame-options"] == "DENY"


async def test_head_is_get_without_the_body(serve: Serve) -> None:
    site = await serve(lambda request: Response(200, b"x" * 100))
    reader, writer = await site.connect()
    for _ in range(2):  # a body after the first would be read as the second's head
        writer.write(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await read_answer(reader, head=True)
        assert (answer.status, answer.headers["content-length"]) == (200, "100")
    writer.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "get"])
async def test_a_method_that_could_change_something_is_405_and_never_reaches_a_route(
    serve: Serve, method: str
) -> None:
    asked: list[Request] = []

    def handler(request: Request) -> Response:
        asked.append(request)
        return Response(200, b"")

    target = "agent:9900" if method == "CONNECT" else "/"
    answer = await (await serve(handler)).get(target, method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.headers["connection"] == "close"
    assert asked == []


@pytest.mark.parametrize(
    "headers", [{"Content-Length": "5"}, {"Transfer-Encoding": "chunked"}], ids=["length", "chunks"]
)
async def test_a_body_is_refused(serve: Serve, headers: dict[str, str]) -> None:
    answer = await (await serve(echo)).get("/", **headers)
    assert answer.status == 413
    assert answer.headers["connection"] == "close"


async def test_a_refusal_arrives_although_the_peer_is_still_sending(serve: Serve) -> None:
    site = await serve(echo)
    body = b"y" * 300_000
    head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert (await site.raw(head + body)).status == 405


async def test_a_head_above_8_kib_is_431(serve: Serve) -> None:
    answer = await (await serve(echo)).get("/", X_Long="z" * 9000)
    assert answer.status == 431
    assert (await (await serve(echo)).get("/", X_Fits="z" * 7000)).status == 200


async def test_what_is_not_http_is_400(serve: Serve) -> None:
    site = await serve(echo)
    assert (await site.raw(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")).status == 400
    assert (await site.raw(b"GET / HTTP/1.1\r\n\r\n")).status == 400  # no Host
    assert (await site.raw(b"GET x HTTP/1.1\r\nHost: a\r\n\r\n")).status == 400
    many = "&".join(f"a{n}=1" for n in range(200))
    assert (await site.get(f"/?{many}")).status == 400


async def test_targets_keep_path_and_query_apart(serve: Serve) -> None:
    site = await serve(echo)
    assert (await site.get("/a?b=1&b=2&c")).text == "GET /a {'b': ['1', '2'], 'c': ['']}"
    assert (await site.get("http://elsewhere/a")).text == "GET /a {}"


async def test_one_connection_serves_many_requests_also_pipelined(serve: Serve) -> None:
    reader, writer = await (await serve(echo)).connect()
    writer.write(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await read_answer(reader)).text.startswith("GET /1")
    assert (await read_answer(reader)).text.startswith("GET /2")
    writer.write(b"GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (await read_answer(reader)).text.startswith("GET /3")
    assert await asyncio.wait_for(reader.read(), 10.0) == b""
    writer.close()


async def test_a_head_that_dribbles_in_is_408_and_a_silent_peer_is_let_go(serve: Serve) -> None:
    site = await serve(echo, Bounds(head_within=Seconds(0.2)))
    assert (await site.raw(b"GET / HTT")).status == 408
    reader, writer = await site.connect()
    assert await asyncio.wait_for(reader.read(), 10.0) == b""
    writer.close()


async def test_an_idle_connection_is_closed_after_its_time(serve: Serve) -> None:
    reader, writer = await (await serve(echo, Bounds(idle=Seconds(0.1)))).connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await read_answer(reader)).status == 200
    assert await asyncio.wait_for(reader.read(), 10.0) == b""
    writer.close()


async def test_a_peer_that_takes_no_answer_is_given_up(serve: Serve) -> None:
    site = await serve(
        lambda request: Response(200, b"x" * 20_000_000), Bounds(write_within=Seconds(0.2))
    )
    _, writer = await site.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await _until(lambda: len(site.server._peers) == 1)
    await _until(lambda: not site.server._peers)
    writer.close()


async def test_one_connection_too_many_is_503_and_the_rest_go_on(serve: Serve) -> None:
    site = await serve(lambda request: Response(200, b"x" * 20_000_000), Bounds(connections=2))
    taking = [await site.connect(), await site.connect()]
    for _, writer in taking:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await _until(lambda: [peer.in_head for peer in site.server._peers] == [False, False])
    assert (await site.raw(b"")).status == 503
    for reader, writer in taking:
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await read_answer(reader)).status == 200
        writer.close()


async def test_a_probe_gets_in_while_all_connections_hold_half_a_head(serve: Serve) -> None:
    site = await serve(echo)
    held = []
    for _ in range(300):
        reader, writer = await site.connect()
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        held.append((reader, writer))
    for _ in range(40):
        assert (await site.get("/livez")).status == 200
    assert await _ended(held[0][0])
    for _, writer in held:
        writer.close()


async def test_the_address_with_the_most_half_sent_requests_gives_way(serve: Serve) -> None:
    site = await serve(echo, Bounds(connections=4))
    lone = await asyncio.open_connection(site.host, site.port, local_addr=("127.0.0.2", 0))
    await _until(lambda: len(site.server._peers) == 1)
    crowd = [await site.connect() for _ in range(6)]
    await _until(lambda: len(site.server._peers) == 4)
    lone[1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await read_answer(lone[0])).status == 200
    for _, writer in (lone, *crowd):
        writer.close()


async def test_a_forgotten_idle_connection_gives_way_to_a_probe(serve: Serve) -> None:
    site = await serve(echo, Bounds(connections=2))
    held = []
    for _ in range(2):
        reader, writer = await site.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await read_answer(reader)
        held.append((reader, writer))
    await _until(lambda: all(peer.idle for peer in site.server._peers))
    assert (await site.get("/")).status == 200
    assert await _ended(held[0][0])  # the one that was silent longest
    held[1][1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await read_answer(held[1][0])).status == 200
    for _, writer in held:
        writer.close()


async def test_a_handler_that_raises_is_a_500_without_details_and_the_next_is_served(
    serve: Serve,
) -> None:
    def handler(request: Request) -> Response:
        if request.path == "/bad":
            password = "hunter2-in-a-local"
            raise RuntimeError(f"about {len(password)} and hunter2-in-the-message")
        return echo(request)

    site = await serve(handler)
    reader, writer = await site.connect()
    writer.write(b"GET /bad HTTP/1.1\r\nHost: a\r\n\r\nGET /good HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = await read_answer(reader)
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    assert b"Traceback" not in answer.body
    assert (await read_answer(reader)).status == 200
    writer.close()


async def test_stop_lets_an_answer_finish_then_closes_everything_and_may_be_repeated(
    serve: Serve,
) -> None:
    size = 5_000_000
    site = await serve(lambda request: Response(200, b"x" * size))
    idle_reader, idle_writer = await site.connect()
    idle_writer.write(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    await read_answer(idle_reader, head=True)
    reader, writer = await site.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    stopping = asyncio.create_task(site.server.stop(Seconds(10.0)))
    assert len(await asyncio.wait_for(reader.readexactly(size), 20.0)) == size
    writer.close()
    await asyncio.wait_for(stopping, 20.0)
    assert site.server._peers == {}
    await site.server.stop(Seconds(0.0))
    with pytest.raises(ConnectionError):
        await site.connect()
    idle_writer.close()


async def test_stop_does_not_wait_longer_than_its_grace_for_a_peer_that_hangs(
    serve: Serve,
) -> None:
    site = await serve(lambda request: Response(200, b"x" * 20_000_000))
    _, writer = await site.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await _until(lambda: bool(site.server._peers))
    await asyncio.wait_for(site.server.stop(Seconds(0.1)), 5.0)
    assert site.server._peers == {}
    writer.close()


async def test_stop_before_start_is_nothing() -> None:
    await HttpServer("127.0.0.1:0", echo).stop(Seconds(1.0))


@pytest.mark.parametrize("listen", ["127.0.0.1:99999", "192.0.2.1:80", "no-such-host.invalid:80"])
async def test_an_address_that_cannot_be_had_is_a_usage_error_that_names_it(listen: str) -> None:
    with pytest.raises(UsageError, match=listen) as refused:
        await HttpServer(listen, echo).start()
    assert refused.value.remedy


async def test_a_taken_port_is_a_usage_error(serve: Serve) -> None:
    site = await serve(echo)
    with pytest.raises(UsageError, match="in use"):
        await HttpServer(f"127.0.0.1:{site.port}", echo).start()


async def _ended(reader: asyncio.StreamReader) -> bool:
    """Whether the connection is closed or reset, with nothing said."""
    try:
        return await asyncio.wait_for(reader.read(), 10.0) == b""
    except ConnectionError:
        return True


async def _until(seen: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not seen():
            await asyncio.sleep(0.005)


# -- any bytes at all -------------------------------------------------------------------------


class Background:
    """The server on a loop of its own thread, for clients that block."""

    def __init__(self, handler: Handler, bounds: Bounds) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = HttpServer("127.0.0.1:0", handler, bounds)
        self.address = self._run(self._server.start())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    def stop(self) -> None:
        self._run(self._server.stop(Seconds(0.0)))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    server = Background(echo, Bounds(head=Bytes(512), head_within=Seconds(0.3)))
    yield server
    server.stop()


_pieces = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
            b"GET //[::?%00=%zz HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"\r\n",
            b"X: " + b"q" * 600,
        ]
    ),
)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_pieces, max_size=6), st.booleans())
def test_no_bytes_keep_the_server_from_answering_the_next_request(
    background: Background, pieces: list[bytes], hang_up: bool
) -> None:
    with socket.create_connection(background.address, timeout=10.0) as peer:
        try:
            peer.sendall(b"".join(pieces))
            if hang_up:
                peer.shutdown(socket.SHUT_WR)
                while data := peer.recv(65536):
                    assert data
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was turned away before it had said everything
    with socket.create_connection(background.address, timeout=10.0) as peer:
        peer.sendall(b"GET /alive HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := peer.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"GET /alive {}")
