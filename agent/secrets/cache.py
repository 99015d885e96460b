"""Values in memory for a while: TTL, one fetch at a time for a name, a bound on staleness.

An entry's age counts from the fetch that brought its value; an error never renews it. While a value
is past its TTL and the provider fails, the old value is served until `max_stale`; past that the
error is. Misses of one name in many threads make one backend call. Answers of "no such secret" are
kept briefly. What is evicted or replaced is wiped, as far as Python lets one (see `SecretValue`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from agent.clock import Clock
from agent.secrets.errors import NotFoundError, SecretsError
from agent.secrets.model import Fetched
from agent.units import Monotonic, Seconds, SecretName

NEGATIVE_TTL = Seconds(5.0)
MAX_ENTRIES = 1024


@dataclass(slots=True)
class Entry:
    """One name: its last value and when that was fetched, or the error that stands for it."""

    fetched: Fetched | None
    at: Monotonic
    error: SecretsError | None
    tried_at: Monotonic


class Cache:
    """A bounded cache in front of `load`. Safe from any thread."""

    def __init__(
        self,
        load: Callable[[SecretName], Fetched],
        clock: Clock,
        *,
        ttl: Seconds,
        max_stale: Seconds,
        told: Callable[[str], None] = lambda _result: None,
    ) -> None:
        """`told` hears of each look-up: `hit`, `miss`, `stale` or `negative`."""
        self._load = load
        self._clock = clock
        self.ttl, self.max_stale = ttl, max_stale
        self._told = told
        self._lock = threading.Lock()
        self._entries: OrderedDict[SecretName, Entry] = OrderedDict()
        self._flights: dict[SecretName, threading.Lock] = {}
        self.hits = 0
        self.misses = 0

    def get(self, name: SecretName) -> Fetched:
        """The value, from memory if it is fresh.

        Raises:
            SecretsError: there is none, or none young enough while the provider fails.
        """
        kept = self._fresh(name)
        if kept is not None:
            return kept
        with self._flight(name):
            kept = self._fresh(name)  # another thread may have brought it meanwhile
            return kept if kept is not None else self.refresh(name)

    def refresh(self, name: SecretName) -> Fetched:
        """Ask the provider now, whatever is kept; raises as `get`."""
        self._count("miss")
        now = self._clock.monotonic()
        try:
            fetched = self._load(name)
        except SecretsError as error:
            return self._failed(name, error, now)
        self._keep(name, Entry(fetched, now, None, now))
        return fetched

    def peek(self, name: SecretName) -> Entry | None:
        """What is kept, fresh or not, without a look-up."""
        with self._lock:
            return self._entries.get(name)

    def age(self, name: SecretName) -> Seconds | None:
        """Seconds since the kept value was fetched."""
        entry = self.peek(name)
        if entry is None or entry.fetched is None:
            return None
        return Seconds(self._clock.monotonic() - entry.at)

    def clear(self) -> None:
        """Forget and wipe everything."""
        with self._lock:
            for entry in self._entries.values():
                _wipe(entry)
            self._entries.clear()

    @property
    def hit_rate(self) -> float:
        """Share of look-ups answered from memory; 0 before the first."""
        total = self.hits + self.misses
        return self.hits / total if total else 0.0

    def _fresh(self, name: SecretName) -> Fetched | None:
        now = self._clock.monotonic()
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return None
            self._entries.move_to_end(name)
        if entry.fetched is None:
            if entry.error is not None and now - entry.tried_at < NEGATIVE_TTL:
                self._count("negative")
                raise entry.error
            return None
        if now - entry.at >= self.ttl:
            return None
        self._count("hit")
        return entry.fetched

    def _failed(self, name: SecretName, error: SecretsError, now: Monotonic) -> Fetched:
        entry = self.peek(name)
        if entry is None or entry.fetched is None:
            if isinstance(error, NotFoundError):
                self._keep(name, Entry(None, now, error, now))
            raise error
        entry.error, entry.tried_at = error, now
        if now - entry.at > self.max_stale:
            raise error
        self._told("stale")
        return entry.fetched

    def _keep(self, name: SecretName, entry: Entry) -> None:
        with self._lock:
            self._entries[name] = entry
            self._entries.move_to_end(name)
            while len(self._entries) > MAX_ENTRIES:
                _, evicted = self._entries.popitem(last=False)
                _wipe(evicted)

    def _flight(self, name: SecretName) -> threading.Lock:
        with self._lock:
            if len(self._flights) > 4 * MAX_ENTRIES:
                self._flights.clear()
            return self._flights.setdefault(name, threading.Lock())

    def _count(self, result: str) -> None:
        if result == "miss":
            self.misses += 1
        else:
            self.hits += 1
        self._told(result)


def _wipe(entry: Entry) -> None:
    if entry.fetched is not None:
        entry.fetched.value.wipe()
