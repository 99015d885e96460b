"""The whole scrape of one target.

What `fetch.py` brings is given to the store, or its failure is, and `up`,
`scrape_duration_seconds` and `scrape_samples_scraped` are written as Prometheus writes them. The
target's fast lane (`fastlane.py`) is scraped beside it; whether the target is up is said here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agent.alerts.errors import ExpositionError, ScrapeError
from agent.alerts.fastlane import FastLane
from agent.alerts.fetch import Fetcher
from agent.alerts.series import SeriesStore
from agent.clock import Clock
from agent.config import Target
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Bytes, Monotonic, Seconds, UnixTime

_log = get_logger(__name__)


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
        self._fetcher = Fetcher(target.job)
        self._retired = False
        self.fast = FastLane(target, self.labels, store, recorder, clock)

    async def scrape(self, at: UnixTime) -> None:
        """Fetch and hand over; a failure is recorded, never raised.

        Args:
            at: the time that every sample of this scrape is stamped with.
        """
        began = self._clock.monotonic()
        samples = 0
        try:
            body = await self._fetcher.body(self.target.url, self.timeout, self.max_body)
            if self._retired:
                return
            took = self._clock.monotonic() - began
            samples = self._store.ingest(self.labels, at, body).samples
        except Exception as error:  # noqa: BLE001 - one target's fault must not stop the others
            if self._retired:
                return
            took = self._clock.monotonic() - began
            self.fast.up = False
            self.fast.hand_back()
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
            self.fast.up = True
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

    def as_dict(self) -> dict[str, Any]:
        """The read model."""
        return {
            "job": self.target.job,
            "url": _shown(self.target.url),
            "up": self.seen.up,
            "last_scrape": self.seen.last_scrape,
            "last_error": self.seen.last_error,
            "seconds": round(self.seen.seconds, 6),
            "fast_lane": self.fast.live,
            "note": self.fast.note,
        }

    def retire(self, at: UnixTime) -> None:
        """The target is no longer wanted: its series go stale, and the thread ends."""
        self._retired = True
        self.fast.hand_back()
        self._store.fail(self.labels, at)
        self._store.write(f"scrape {self.target.job}", at, ())
        self.close()

    def close(self) -> None:
        """Let the threads end, after a scrape that is under way."""
        self._fetcher.close()
        self.fast.close()


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
