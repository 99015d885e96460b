"""The agent's own metrics as a target: read from its registry, without a socket.

Rules on `jules_agent_…` find them under job `jules-agent`, and under the pod's name as instance;
only the metrics that some rule mentions are made into text, and that every few seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from agent.alerts.births import counters, told_by
from agent.alerts.series import SeriesStore
from agent.telemetry.metrics import PREFIX, Recorder, full_names
from agent.units import Seconds, UnixTime

JOB = "jules-agent"
_EVERY = Seconds(5.0)


@runtime_checkable
class Exposes(Protocol):
    """A recorder that can tell what it recorded."""

    def text(self, names: Iterable[str] | None = None) -> bytes:
        """The text exposition of the samples of these names."""
        ...


def _nothing() -> None:
    return


class OwnMetrics:
    """Puts the agent's own samples into the store."""

    def __init__(self, store: SeriesStore, recorder: Recorder, pod: str) -> None:
        self.names: frozenset[str] = frozenset()
        self.before: Callable[[], None] = _nothing
        """Called before the samples are read, to set what is measured only when asked for."""
        self._store = store
        self._source = recorder if isinstance(recorder, Exposes) else None
        self._labels = {"job": JOB, "instance": pod}
        self._at: UnixTime | None = None
        self._asked: frozenset[str] = frozenset()

    def choose(self, names: frozenset[str] | None, wanted: bool) -> None:
        """Read those of `names` (None: all) that are the agent's own, if any are `wanted`."""
        known = frozenset(full_names()) if names is None else names
        self.names = frozenset(name for name in known if wanted and name.startswith(PREFIX))
        self._asked = self.names | told_by(counters(self.names))

    def take(self, at: UnixTime) -> None:
        """Take the samples now, if it is time."""
        if self._source is None or not self.names:
            return
        if self._at is not None and 0 <= at - self._at < _EVERY - 0.5:
            return
        self._at = at
        self.before()
        self._store.ingest(self._labels, at, self._source.text(self._asked))
        self._store.write(f"scrape {JOB}", at, [({**self._labels, "__name__": "up"}, 1.0)])
