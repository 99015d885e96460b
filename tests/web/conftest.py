"""The real server on a free port of the loopback, and the plainest possible client for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from agent.units import Seconds
from agent.web.routes import routes
from agent.web.server import Bounds, Handler, HttpServer
from tests.faults.clock import FakeClock
from tests.web.face import NOW, FakeFace


@dataclass
class Answer:
    """A parsed answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> Answer:
    """The next answer on a connection; EOFError when there is none."""
    raw = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20.0)
    lines = raw.decode().split("\r\n")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:] if line)
    }
    size = 0 if head else int(headers.get("content-length", "0"))
    body = await asyncio.wait_for(reader.readexactly(size), 20.0)
    return Answer(int(lines[0].split()[1]), headers, body)


class Site:
    """A running server and how to ask it."""

    def __init__(self, server: HttpServer, host: str, port: int) -> None:
        self.server, self.host, self.port = server, host, port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    async def raw(self, data: bytes, *, head: bool = False) -> Answer:
        """Send `data` on a new connection, read one answer."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            return await read_answer(reader, head=head)
        finally:
            writer.close()

    async def get(self, target: str, method: str = "GET", **headers: str) -> Answer:
        """One request on a new connection."""
        lines = [f"{method} {target} HTTP/1.1", "Host: agent"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        data = "\r\n".join([*lines, "", ""]).encode()
        return await self.raw(data, head=method == "HEAD")


Serve = Callable[..., Awaitable[Site]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers for a handler; stops them all at the end."""
    running: list[HttpServer] = []

    async def start(handler: Handler, bounds: Bounds | None = None) -> Site:
        server = HttpServer("127.0.0.1:0", handler, bounds)
        running.append(server)
        return Site(server, *await server.start())

    yield start
    for server in running:
        await server.stop(Seconds(0.0))


@pytest.fixture
def face() -> FakeFace:
    return FakeFace()


@pytest.fixture
async def site(serve: Serve, face: FakeFace) -> Site:
    """The face's real routes over `face`."""
    return await serve(routes(face, FakeClock(NOW)))
