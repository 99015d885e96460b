"""The fast lane of one target: the metrics of critical rules, asked for alone and often.

1. the first answer is a trial: when it holds families that were not asked for, the target does not
   know `name[]`, and stays on one lane, which the read model says
2. from a good trial on these metrics are taken from here alone, the others from the whole scrape:
   neither makes a series of the other stale
3. a fast scrape that fails hands its metrics back to the whole scrape, which decides whether the
   target is down; nothing goes stale for it. Trials begin again after a pause that doubles
4. while the whole scrape fails the target is down, and its fast lane with it; trials begin again as
   soon as it is back
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.alerts.errors import ExpositionError, ScrapeError
from agent.alerts.fetch import Fetcher
from agent.alerts.lanes import LONGEST_QUERY, asked_for, ignores_names, narrowed
from agent.alerts.series import SeriesStore
from agent.clock import Clock
from agent.config import Target
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Bytes, Monotonic, Seconds, UnixTime

_log = get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_DEAF_PAUSE = 300.0
"""Seconds until a target that ignores `name[]` is tried again: it may have been replaced."""


class FastLane:
    """Scrapes one target's critical metrics into the store."""

    def __init__(
        self,
        target: Target,
        labels: Mapping[str, str],
        store: SeriesStore,
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self.live = False
        self.up = False
        """Whether the last whole scrape was good: only then is there a fast lane."""
        self.note = ""
        self._target = target
        self._labels = labels
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._fetcher: Fetcher | None = None
        self._names: frozenset[str] = frozenset()
        self._asked: Sequence[str] = ()
        self._url = ""
        self._deadline = Seconds(0.25)
        self._max_body = Bytes(0)
        self._pause = _FIRST_PAUSE
        self._retry_at = Monotonic(0.0)

    def ask_for(
        self, names: frozenset[str], births: bool, deadline: Seconds, max_body: Bytes
    ) -> None:
        """What to ask for from now on; no names, or a deadline of 0: nothing."""
        if deadline <= 0:
            names = frozenset()
        asked = asked_for(names, births) if names else []
        url = narrowed(self._target.url, asked)
        if len(url) > LONGEST_QUERY:
            names, asked = frozenset(), []
            self.note = "one lane: critical rules name too many metrics for one request"
        self._deadline, self._max_body = deadline, max_body
        if (names, asked) != (self._names, self._asked):
            self._names, self._asked, self._url = names, asked, url
            self.hand_back()

    @property
    def wanted(self) -> bool:
        """Whether there is something to ask for, and it is time to ask."""
        if not self._names or not self.up:
            return False
        return self.live or self._clock.monotonic() >= self._retry_at

    async def scrape(self, at: UnixTime) -> None:
        """Fetch and hand over; a failure is recorded, never raised."""
        if self._fetcher is None:
            self._fetcher = Fetcher(f"{self._target.job}-fast", plain=True)
        began = self._clock.monotonic()
        names = self._names
        try:
            body = await self._fetcher.body(self._url, self._deadline, self._max_body)
            if names is not self._names or not self.up:
                return  # a reload, or the end of the target, came in between
            if not self.live and not self._trial(body):
                return
            self._store.ingest(self._labels, at, body, fast=True)
        except (ScrapeError, ExpositionError) as error:
            self._failed(str(error))
        else:
            self._recorder.inc("scrapes_total", target=self._target.job, outcome="ok")
            took = self._clock.monotonic() - began
            self._recorder.observe("scrape_seconds", took, target=self._target.job)

    def _trial(self, body: bytes) -> bool:
        if ignores_names(body, self._asked):
            self.note = "one lane: the target answers `name[]` with everything"
            self._retry_at = Monotonic(self._clock.monotonic() + _DEAF_PAUSE)
            _log.info("the target ignores name[]: no fast lane", target=self._target.job)
            return False
        self.live = True
        self.note = ""
        self._pause = _FIRST_PAUSE
        self._store.divide(self._labels, self._names)
        return True

    def _failed(self, error: str) -> None:
        self._recorder.inc("scrapes_total", target=self._target.job, outcome="error")
        self.hand_back()
        self.note = f"one lane for now: {error}"
        self._retry_at = Monotonic(self._clock.monotonic() + self._pause)
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def hand_back(self) -> None:
        """Everything is the whole scrape's again; a trial may follow at once."""
        if self.live:
            self._store.divide(self._labels, frozenset())
        self.live = False
        self._retry_at = Monotonic(0.0)

    def close(self) -> None:
        """Let the thread end."""
        if self._fetcher is not None:
            self._fetcher.close()
