"""Fetch one target's exposition, within a deadline that covers all of it.

Each target has a connection and a thread of its own: one that hangs delays no other, and never the
loop. No compression is asked for, because the trader would pay for it; an answer that is
compressed all the same is bounded after decompression too. What came is given to the store, or the
failure is, and `up`, `scrape_duration_seconds` and `scrape_samples_scraped` are written as
Prometheus writes them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agent.alerts.errors import ExpositionError, ScrapeError
from agent.alerts.exchange import Connection, ExchangeError
from agent.alerts.series import SeriesStore
from agent.clock import Clock
from agent.config import Target
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Bytes, Monotonic, Seconds, UnixTime

_log = get_logger(__name__)

ACCEPT = "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"
_SLACK = 0.25
"""Seconds beyond the deadline after which the thread is taken for stuck (in a name's look-up)."""


@dataclass(slots=True)
class Seen:
    """How a target does, for the read model."""

    up: bool = False
    last_scrape: UnixTime | None = None
    last_error: str | None = None
    seconds: float = 0.0
    last_good: Monotonic | None = None


class Scraper:
    """Scrapes one target into the store."""

    def __init__(
        self,
        target: Target,
        *,
        timeout: Seconds,
        max_body: Bytes,
        store: SeriesStore,
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self.target = target
        self.timeout = timeout
        self.max_body = max_body
        self.seen = Seen()
        self.labels = {**target.labels, "job": target.job, "instance": instance(target.url)}
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._connection = Connection()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"scrape-{target.job}")
        self._under_way: asyncio.Future[bytes] | None = None

    async def scrape(self, at: UnixTime) -> None:
        """Fetch and hand over; a failure is recorded, never raised.

        Args:
            at: the time that every sample of this scrape is stamped with.
        """
        began = self._clock.monotonic()
        samples = 0
        try:
            body = await self._body()
            took = self._clock.monotonic() - began
            samples = self._store.ingest(self.labels, at, body).samples
        except Exception as error:  # noqa: BLE001 - one target's fault must not stop the others
            took = self._clock.monotonic() - began
            self._store.fail(self.labels, at)
            self.seen.up = False
            self.seen.last_error = str(error)
            if not isinstance(error, ScrapeError | ExpositionError):
                told = f"fault of the agent: {type(error).__name__}"
                self.seen.last_error = f"{self.target.job}: {told}"
                _log.exception("scrape failed by a fault of the agent", target=self.target.job)
        else:
            self.seen.up = True
            self.seen.last_error = None
            self.seen.last_good = self._clock.monotonic()
        self.seen.last_scrape = at
        self.seen.seconds = took
        outcome = "ok" if self.seen.up else "error"
        self._recorder.inc("scrapes_total", target=self.target.job, outcome=outcome)
        self._recorder.observe("scrape_seconds", took, target=self.target.job)
        self._tell(at, took, samples)

    def _tell(self, at: UnixTime, took: float, samples: int) -> None:
        values = {
            "up": float(self.seen.up),
            "scrape_duration_seconds": took,
            "scrape_samples_scraped": float(samples),
        }
        named = [({**self.labels, "__name__": name}, value) for name, value in values.items()]
        self._store.write(f"scrape {self.target.job}", at, named)

    async def _body(self) -> bytes:
        if self._under_way is not None and not self._under_way.done():
            raise ScrapeError(f"{self.target.job}: the scrape before has not come back")
        loop = asyncio.get_running_loop()
        self._under_way = loop.run_in_executor(self._thread, self.fetch)
        self._under_way.add_done_callback(_look_away)  # it may come after nobody waits any more
        done, _ = await asyncio.wait((self._under_way,), timeout=self.timeout + _SLACK)
        if not done:
            raise ScrapeError(f"{self.target.job}: no whole answer before the deadline")
        return await self._under_way

    def fetch(self) -> bytes:
        """The exposition's bytes. Blocking.

        Raises:
            ScrapeError: none in time, too large, or a status that is not 200.
        """
        try:
            answer = self._connection.exchange(
                "GET",
                self.target.url,
                deadline=self.timeout,
                max_body=self.max_body,
                headers={
                    "Accept": ACCEPT,
                    "Accept-Encoding": "identity",
                    "X-Prometheus-Scrape-Timeout-Seconds": f"{self.timeout:g}",
                },
            )
        except ExchangeError as error:
            raise ScrapeError(
                f"{self.target.job}: {error}", "see that the process runs and serves its metrics"
            ) from None
        if answer.status != 200:
            raise ScrapeError(
                f"{self.target.job}: answered {answer.status}",
                "correct the target's url; redirects are not followed",
            )
        return answer.body

    def as_dict(self) -> dict[str, Any]:
        """The read model."""
        return {
            "job": self.target.job,
            "url": _shown(self.target.url),
            "up": self.seen.up,
            "last_scrape": self.seen.last_scrape,
            "last_error": self.seen.last_error,
            "seconds": round(self.seen.seconds, 6),
        }

    def retire(self, at: UnixTime) -> None:
        """The target is no longer wanted: its series go stale, and the thread ends."""
        self._store.fail(self.labels, at)
        self._store.write(f"scrape {self.target.job}", at, ())
        self.close()

    def close(self) -> None:
        """Let the thread end, after a scrape that is under way."""
        self._thread.submit(self._connection.close)
        self._thread.shutdown(wait=False)


def instance(url: str) -> str:
    """`host:port` of a target, the scheme's port where none is written, as Prometheus has it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _shown(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _look_away(attempt: asyncio.Future[bytes]) -> None:
    """Take the outcome, so that asyncio does not report it as forgotten."""
    if not attempt.cancelled():
        attempt.exception()
