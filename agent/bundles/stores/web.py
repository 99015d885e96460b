"""GET over HTTP(S) for stores: kept connections, bounded waits, redirects that cannot lead astray.

1. a wait for bytes ends after `timeout`, and a whole document after six of them: a server that
   drips holds nobody
2. at most five redirects, to the store's own origin or to a host that the configuration names,
   never from https to http; credentials go to the store's own origin only
3. foreign errors become `StoreError` here, once; an address is told without its query
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from agent.bundles.errors import StoreError
from agent.units import Seconds

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 256 * 1024
_PIECE = 64 * 1024
_DOCUMENT_WAITS = 6

Origin = tuple[str, str, int]
Headers = Callable[[str, Origin], Mapping[str, str]]
"""Headers to send for a target at an origin: credentials, where it may have them."""


def origin_of(url: str) -> Origin:
    """Scheme, host and port of a URL; raises StoreError for what a store's can never be."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.username:
        raise StoreError("an address that is no plain http or https URL", "mend bundles.store")
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole document. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Pace:
    """A limit of bytes a second over all streams of one store; None: no limit."""

    def __init__(
        self,
        rate: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def take(self, count: int) -> None:
        """Wait until `count` more bytes may have come."""
        if self._rate is None:
            return
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)


class Tls:
    """Who is believed to be a server: the authorities in a file, or the system's. Loading those
    takes 20 ms, so it is done once, and again when the file has changed."""

    def __init__(self, ca_file: Path | None) -> None:
        self._ca_file = ca_file
        self._made: tuple[int, ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """Raises StoreError where the file is none."""
        try:
            stamp = self._ca_file.stat().st_mtime_ns if self._ca_file else 0
            if self._made is None or self._made[0] != stamp:
                self._made = (stamp, ssl.create_default_context(cafile=self._ca_file))
        except OSError as error:  # ssl's errors are some too
            raise StoreError(
                f"{self._ca_file}: {error.strerror}", "mend bundles.store.ca_file"
            ) from None
        return self._made[1]


class Web:
    """Connections to one store. Safe from any thread; `cut` ends every wait at once."""

    def __init__(
        self,
        url: str,
        *,
        timeout: Seconds,
        headers: Headers,
        hosts: tuple[str, ...] = (),
        tls: Tls | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.origin = origin_of(url)
        self._timeout, self._headers, self._hosts = timeout, headers, hosts
        self._tls = tls or Tls(None)
        self.pace = pace or Pace(None)
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[http.client.HTTPConnection]] = {}
        self._busy: set[http.client.HTTPConnection] = set()
        self._cut = False

    def get(self, url: str, limit: int, headers: Mapping[str, str] | None = None) -> Reply:
        """A document of at most `limit` bytes, whatever its status; raises StoreError."""
        give_up = time.monotonic() + self._timeout * _DOCUMENT_WAITS
        with self.asked("GET", url, headers or {}) as (response, _):
            body = bytearray()
            while piece := response.read1(64 * 1024):
                body += piece
                if len(body) > limit:
                    raise StoreError(f"{shown(url)} is larger than {limit} bytes")
                if time.monotonic() > give_up:
                    raise StoreError(f"{shown(url)} comes too slowly")
            return Reply(response.status, lowered(response), bytes(body))

    @contextmanager
    def asked(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[tuple[http.client.HTTPResponse, str]]:
        """The answer, redirects followed, with the address that gave it; the body is the caller's
        to read. What it raises in the body of `with` is translated too. Raises StoreError."""
        start = url
        for _ in range(MAX_REDIRECTS + 1):
            target = self._checked(url)
            with self._one(method, url, target, headers, body) as response:
                where = response.getheader("Location")
                if response.status not in _REDIRECTS or where is None:
                    yield response, url
                    return
                response.read(_CHUNK)
            url = urljoin(url, where)
        raise StoreError(f"{shown(start)} leads through more than {MAX_REDIRECTS} redirects")

    def _checked(self, url: str) -> Origin:
        target = origin_of(url)
        plain = target[0] == "http" and self.origin[0] == "https"
        if target != self.origin and (target[1] not in self._hosts or plain):
            raise StoreError(
                f"{shown(url)}: a redirect to another server is not followed",
                "name its host in bundles.store.redirects, if it may serve bundles",
            )
        return target

    @contextmanager
    def _one(
        self, method: str, url: str, target: Origin, headers: Mapping[str, str], body: bytes | None
    ) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {"Accept-Encoding": "identity", **headers, **self._headers(url, target)}
        try:
            connection, response = self._ask(method, path, target, sent, body)
            try:
                yield response
            finally:
                self._release(connection, target, response)
        except TimeoutError:
            raise StoreError(
                f"{shown(url)}: no bytes within {self._timeout:g} s", "see that server, the network"
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise StoreError(
                f"the certificate of {target[1]} is not accepted: {error.verify_message}",
                "name its authority in bundles.store.ca_file",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise StoreError(f"{shown(url)}: {why}", "see that server, the network") from None

    def _ask(
        self,
        method: str,
        path: str,
        target: Origin,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """One request; a kept connection that the server has closed meanwhile is replaced."""
        while True:
            connection, kept = self._take(target)
            try:
                connection.request(method, path, body=body, headers=dict(headers))
                return connection, connection.getresponse()
            except (ConnectionError, http.client.BadStatusLine):
                self._drop(connection)
                if not kept:
                    raise
            except BaseException:
                self._drop(connection)
                raise

    def _take(self, target: Origin) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            if self._cut:
                raise ConnectionAbortedError
            idle = self._idle.get(target)
            connection = idle.pop() if idle else None
            kept = connection is not None
            if connection is None:
                connection = self._new(target)
            self._busy.add(connection)
        return connection, kept

    def _new(self, target: Origin) -> http.client.HTTPConnection:
        scheme, host, port = target
        if scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._timeout)
        context = self._tls.context()
        return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)

    def _release(
        self,
        connection: http.client.HTTPConnection,
        target: Origin,
        response: http.client.HTTPResponse,
    ) -> None:
        whole = response.isclosed() and not response.will_close and connection.sock is not None
        with self._lock:
            if whole and not self._cut:
                self._busy.discard(connection)
                self._idle.setdefault(target, []).append(connection)
                return
        response.close()
        self._drop(connection)

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def cut(self) -> None:
        """Close everything; whoever waits for bytes gets an error at once."""
        with self._lock:
            self._cut = True
            idle = [one for many in self._idle.values() for one in many]
            self._idle.clear()
            busy = list(self._busy)
        for connection in idle:
            connection.close()
        for connection in busy:
            sock = connection.sock
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def fill(self, response: http.client.HTTPResponse, buffer: memoryview) -> int:
        """Read until `buffer` is full or the body has ended, at the store's pace; the bytes read.
        Slower than a chunk in six timeouts is as good as dead: TimeoutError."""
        done = 0
        give_up = time.monotonic() + self._timeout * _DOCUMENT_WAITS
        due = _CHUNK
        while done < len(buffer):
            count = response.readinto(buffer[done : done + _PIECE])
            if not count:
                break
            done += count
            self.pace.take(count)
            if done >= due:
                due = done + _CHUNK
                give_up = time.monotonic() + self._timeout * _DOCUMENT_WAITS
            elif time.monotonic() > give_up:
                raise TimeoutError
        return done


def lowered(response: http.client.HTTPResponse) -> dict[str, str]:
    """Its headers, names in lower case."""
    return {name.lower(): value for name, value in response.getheaders()}


def shown(url: str) -> str:
    """An address for a message: no query, which may be signed, and no user."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
