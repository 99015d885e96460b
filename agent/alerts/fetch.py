"""Ask one address of a target again and again, each time within a deadline that covers all of it.

An address has a connection and a thread of its own: one that hangs delays no other, and never the
loop. No compression is asked for, because the trader would pay for it; an answer that is
compressed all the same is bounded after decompression too. A fast lane goes over a socket that
costs a tenth of the general client (`plainhttp.py`), unless the answer is not as plain as that.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from agent.alerts.errors import ScrapeError
from agent.alerts.exchange import Connection, ExchangeError
from agent.alerts.plainhttp import NotPlainError, PlainConnection, is_plain
from agent.units import Bytes, Seconds

ACCEPT = "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"
_SLACK = 0.25
"""Seconds beyond the deadline after which the thread is taken for stuck (in a name's look-up)."""


class Fetcher:
    """Fetches expositions for the target `job`."""

    def __init__(self, job: str, plain: bool = False) -> None:
        """`plain`: try the lean client first; for what is asked several times a second."""
        self._job = job
        self._connection = Connection()
        self._plain: PlainConnection | None = PlainConnection() if plain else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"scrape-{job}")
        self._under_way: asyncio.Future[bytes] | None = None

    async def body(self, url: str, deadline: Seconds, max_body: Bytes) -> bytes:
        """The exposition's bytes.

        Raises:
            ScrapeError: none in time, too large, or a status that is not 200.
        """
        if self._under_way is not None and not self._under_way.done():
            raise ScrapeError(f"{self._job}: the scrape before has not come back")
        loop = asyncio.get_running_loop()
        self._under_way = loop.run_in_executor(self._thread, self._fetch, url, deadline, max_body)
        self._under_way.add_done_callback(_look_away)  # it may come after nobody waits any more
        done, _ = await asyncio.wait((self._under_way,), timeout=deadline + _SLACK)
        if not done:
            raise ScrapeError(f"{self._job}: no whole answer before the deadline")
        return await self._under_way

    def _fetch(self, url: str, deadline: Seconds, max_body: Bytes) -> bytes:
        headers = {
            "Accept": ACCEPT,
            "Accept-Encoding": "identity",
            "X-Prometheus-Scrape-Timeout-Seconds": f"{deadline:g}",
        }
        try:
            if self._plain is not None and is_plain(url):
                try:
                    return self._plain.get(url, headers, deadline, max_body)
                except NotPlainError:  # from now on by the general client, which says what is wrong
                    self._plain.close()
                    self._plain = None
            answer = self._connection.exchange(
                "GET", url, deadline=deadline, max_body=max_body, headers=headers
            )
        except ExchangeError as error:
            raise ScrapeError(
                f"{self._job}: {error}", "see that the process runs and serves its metrics"
            ) from None
        if answer.status != 200:
            raise ScrapeError(
                f"{self._job}: answered {answer.status}",
                "correct the target's url; redirects are not followed",
            )
        return answer.body

    def close(self) -> None:
        """Let the thread end, after a fetch that is under way."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        self._connection.close()
        if self._plain is not None:
            self._plain.close()


def _look_away(attempt: asyncio.Future[bytes]) -> None:
    """Take the outcome, so that asyncio does not report it as forgotten."""
    if not attempt.cancelled():
        attempt.exception()
