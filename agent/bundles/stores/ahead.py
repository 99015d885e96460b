"""One object as one stream, fetched by several ranged requests at once.

The pieces come in parallel and are handed over in order, so that the reader hashes and writes them
once, and what it has is always a prefix: a download that was killed goes on where it ended. At
most `streams` pieces are in memory. Each piece is asked for on the condition that the object is
still the one that the first answer named (`If-Match`): bytes of two objects never mix. A piece
that fails is asked for again, ever later; the tries are counted piece by piece.
"""

from __future__ import annotations

import http.client
import io
import random
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from agent.bundles.errors import MissingError, StoreError
from agent.bundles.stores.web import Web, lowered, shown
from agent.units import Bytes, Seconds

PIECE = 4 * 1024**2
TRIES = 5
_FIRST_WAIT = Seconds(0.2)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class ChangedError(StoreError):
    """The object is no longer the one of which a part is here already."""


class Ahead(io.RawIOBase):
    """The bytes of `url` from `offset` to `size`. Close it, whatever happens."""

    def __init__(
        self,
        web: Web,
        url: str,
        size: Bytes,
        *,
        offset: int,
        tag: str | None,
        streams: int,
        roll: Callable[[], float] = random.random,
        piece: int = PIECE,
    ) -> None:
        """The first piece is fetched here, so that `tag` is known.

        Raises:
            ChangedError: the object under `tag` is another one now.
            MissingError: there is no such object.
            StoreError: the store does not answer, or not with what was asked for.
        """
        self._web, self._url, self._size, self._piece = web, url, size, piece
        self._roll = roll
        self._gone = threading.Event()
        self.tag = tag
        self._next = offset
        self._head = memoryview(b"")
        self._waiting: deque[Future[memoryview]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        try:
            if offset < size:
                self._head = self._fetch(*self._cut_piece())
            if self._next < size:
                self._pool = ThreadPoolExecutor(streams, "bundle-fetch")
                for _ in range(streams):
                    self._order()
        except BaseException:
            self.close()
            raise

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 at the end. Raises as the constructor."""
        if not self._head and self._waiting:
            self._head = self._waiting.popleft().result()
            self._order()
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._head))
        view[:count] = self._head[:count]
        self._head = self._head[count:]
        return count

    def close(self) -> None:
        """Let go of every connection; a request under way is cut off."""
        if self.closed:
            return
        self._gone.set()
        self._web.cut()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        super().close()

    def _cut_piece(self) -> tuple[int, int]:
        first = self._next
        self._next = min(first + self._piece, self._size)
        return first, self._next

    def _order(self) -> None:
        if self._pool is not None and self._next < self._size:
            self._waiting.append(self._pool.submit(self._fetch, *self._cut_piece()))

    def _fetch(self, first: int, end: int) -> memoryview:
        """Bytes `first` to `end` (exclusive), tried until they are here or it is no use."""
        wait = _FIRST_WAIT
        for tried in range(1, TRIES + 1):
            try:
                return self._once(first, end)
            except (ChangedError, MissingError):
                raise
            except StoreError:
                if tried == TRIES or self._gone.wait(wait * (0.5 + self._roll())):
                    raise
                wait = Seconds(wait * 2)
        raise AssertionError  # the last try raises

    def _once(self, first: int, end: int) -> memoryview:
        headers = {}
        if (first, end) != (0, self._size):
            headers["Range"] = f"bytes={first}-{end - 1}"
        if self.tag is not None:
            headers["If-Match"] = self.tag
        with self._web.asked("GET", self._url, headers) as (response, _):
            told = lowered(response)
            self._check(response.status, told, first, end)
            if self.tag is None:
                self.tag = strong(told)
            buffer = memoryview(bytearray(end - first))
            count = self._web.fill(response, buffer)
            if count < len(buffer):
                raise http.client.IncompleteRead(b"")
            response.read(1)  # the end itself, so that the connection can be used again
            return buffer.toreadonly()

    def _check(self, status: int, told: Mapping[str, str], first: int, end: int) -> None:
        url = shown(self._url)
        if status in (404, 410):
            raise MissingError(f"{url} is not there", "publish the version again")
        if status in (412, 416):
            raise ChangedError(f"{url} is another object than it was", "it is fetched anew")
        if status == 200:
            length = told.get("content-length")
            if (first, end) != (0, self._size):
                if first:
                    raise StoreError(
                        f"{url}: the server sends no ranges", "serve bundles where it does"
                    )
                if length != str(self._size):
                    raise ChangedError(f"{url} is not {self._size} bytes")
            elif length is not None and length != str(self._size):
                raise ChangedError(f"{url} is {length} bytes, not {self._size}")
            return
        match = _RANGE.fullmatch(told.get("content-range", ""))
        if status != 206 or match is None:
            raise StoreError(f"{url}: the server answers {status}", "see that server's own log")
        if tuple(map(int, match.groups())) != (first, end - 1, self._size):
            raise ChangedError(f"{url}: other bytes came than were asked for")


def strong(told: Mapping[str, str]) -> str | None:
    """The answer's ETag, if it is one that stands for exactly these bytes."""
    tag = told.get("etag", "")
    return tag if re.fullmatch(r'"[\x21\x23-\x7e]*"', tag) else None
