"""Values in memory for a while: TTL, one fetch at a time for a name, a bound on staleness.

An entry's age counts from the moment its fetch began; an error never renews it. While a value is
past its TTL and the provider fails, the old value is served until `max_stale`; past that the error
is. A provider that has just failed is left alone for `RETRY_AFTER`, for longer and with full jitter
above that when it fails again for the same name, and so is one that said "no such secret": an
answer, not a failure, which ends the old value. A value is worth asking for again a little before
its TTL is over, by one throw of the dice for each call, so that what was read in one batch stays
together and pods drift apart. Misses of one name in many threads
make one backend call and share its outcome; whoever asks for a value that is being renewed gets the
old one at once. What is evicted or replaced is wiped when its last holder lets go (`SecretValue`),
so that no thread ever finds a value emptied under its hands.
"""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from agent.clock import Clock
from agent.errors import AgentError
from agent.secrets.errors import NotFoundError, afresh
from agent.secrets.model import Fetched
from agent.units import Monotonic, Seconds, SecretName

RETRY_AFTER = Seconds(5.0)
LONGEST_RETRY = Seconds(60.0)
_AHEAD = 0.1
MAX_ENTRIES = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One name: its last value and when that was fetched, and the error of the last try, if any."""

    fetched: Fetched | None
    at: Monotonic
    error: AgentError | None
    tried_at: Monotonic
    failures: int = 0
    retry: Seconds = RETRY_AFTER
    """After a failure: how long the provider is left alone for this name."""
    ahead: float = 0.0
    """Share of the TTL by which it is asked for early."""


@dataclass(slots=True)
class _Flight:
    """One backend call that several threads wait for."""

    landed: threading.Event = field(default_factory=threading.Event)
    fetched: Fetched | None = None
    error: AgentError | None = None


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
        bounds: Mapping[SecretName, Seconds] | None = None,
        roll: Callable[[], float] = random.random,
    ) -> None:
        """`told` hears once of each look-up: `hit`, `miss`, `coalesced`, `stale` or `negative`;
        `bounds` are the names whose `max_stale` is another."""
        self._load = load
        self._clock = clock
        self.ttl, self.max_stale = ttl, max_stale
        self._told = told
        self._bounds, self._roll = dict(bounds or {}), roll
        self._doubted: set[SecretName] = set()
        self._lock = threading.Lock()
        self._entries: OrderedDict[SecretName, Entry] = OrderedDict()
        self._flights: dict[SecretName, _Flight] = {}
        self.hits = 0
        self.misses = 0

    def get(self, name: SecretName) -> Fetched:
        """The value, from memory if it is fresh.

        Raises:
            AgentError: there is none, or none young enough while the provider fails.
        """
        now = self._clock.monotonic()
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None:
                self._entries.move_to_end(name)
                fresh = now - entry.at < self.ttl and name not in self._doubted
                if entry.fetched is not None and fresh:
                    return self._answer("hit", entry.fetched)
                resting = entry.error is not None and now - entry.tried_at < entry.retry
                if entry.fetched is None and resting:
                    raise self._refuse(entry)
                usable = entry.fetched is not None and now - entry.at <= self.bound(name)
                if usable and (resting or name in self._flights):
                    assert entry.fetched is not None
                    return self._answer("stale", entry.fetched)
            flight = self._flights.get(name)
            leads = flight is None
            if flight is None:
                flight = self._flights[name] = _Flight()
        return self._lead(name, flight) if leads else self._follow(flight)

    def refresh(self, name: SecretName) -> Fetched:
        """Ask the provider now, whatever is kept or under way; raises as `get`."""
        now = self._clock.monotonic()
        try:
            fetched = self._load(name)
        except AgentError as error:
            return self._failed(name, afresh(error), now)
        ahead = _AHEAD * self._roll()
        with self._lock:
            fetched = self._keep(name, fetched, now, ahead)
            return self._answer("miss", fetched)

    def refresh_many(
        self,
        names: Sequence[SecretName],
        load: Callable[[Sequence[SecretName]], Mapping[SecretName, Fetched | AgentError]],
    ) -> dict[SecretName, Fetched | AgentError]:
        """As `refresh` for each, by one call of `load`; errors are returned, not raised."""
        began = self._clock.monotonic()
        answers: dict[SecretName, Fetched | AgentError] = {}
        ahead = _AHEAD * self._roll()
        for name, answer in load(names).items():
            if isinstance(answer, AgentError):
                try:
                    answers[name] = self._failed(name, afresh(answer), began)
                except AgentError as error:
                    answers[name] = error
            else:
                with self._lock:
                    answers[name] = self._answer("miss", self._keep(name, answer, began, ahead))
        return answers

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

    def due_in(self, name: SecretName) -> Seconds:
        """Seconds until the provider is worth asking again unprompted; 0: now. An answer, be it a
        value or "no such secret", holds for the TTL; a failure for `RETRY_AFTER`."""
        entry = self.peek(name)
        if entry is None:
            return Seconds(0.0)
        answered = entry.error is None or isinstance(entry.error, NotFoundError)
        until = entry.tried_at + (self.ttl * (1.0 - entry.ahead) if answered else entry.retry)
        return Seconds(max(0.0, until - self._clock.monotonic()))

    def bound(self, name: SecretName) -> Seconds:
        """How old the value of `name` may get."""
        return self._bounds.get(name, self.max_stale)

    def doubt(self, but: Collection[SecretName] = ()) -> None:
        """Have every name but those asked for again at its next look-up. What is kept keeps its
        age, and serves on where the provider fails."""
        with self._lock:
            self._doubted.update(name for name in self._entries if name not in but)

    def inherit(self, older: Cache) -> None:
        """Take over what another cache over the same provider holds, with its ages."""
        with older._lock:
            entries = dict(older._entries)
        with self._lock:
            for name, entry in entries.items():
                self._entries.setdefault(name, entry)

    def clear(self) -> None:
        """Forget everything; each value is wiped as its last holder lets go."""
        with self._lock:
            self._entries.clear()
            self._doubted.clear()

    @property
    def hit_rate(self) -> float:
        """Share of look-ups that cost no backend call; 0 before the first."""
        total = self.hits + self.misses
        return self.hits / total if total else 0.0

    # -- one backend call ---------------------------------------------------------------------

    def _lead(self, name: SecretName, flight: _Flight) -> Fetched:
        try:
            flight.fetched = self.refresh(name)
            return flight.fetched
        except AgentError as error:
            flight.error = afresh(error)
            raise
        finally:
            with self._lock:
                self._flights.pop(name, None)
            flight.landed.set()

    def _follow(self, flight: _Flight) -> Fetched:
        flight.landed.wait()  # the provider's own deadline bounds it
        with self._lock:
            if flight.fetched is not None:
                return self._answer("coalesced", flight.fetched)
            self._count("coalesced")
        if flight.error is not None:
            raise afresh(flight.error)
        raise RuntimeError("the thread that fetched this secret died of a fault of ours")

    def _keep(self, name: SecretName, fetched: Fetched, began: Monotonic, ahead: float) -> Fetched:
        """Keep what a call that began at `began` brought, unless a later call has been faster."""
        kept = self._entries.get(name)
        if kept is not None and kept.fetched is not None and kept.at > began:
            return kept.fetched
        self._put(name, Entry(fetched, began, None, began, ahead=ahead))
        return fetched

    def _failed(self, name: SecretName, error: AgentError, began: Monotonic) -> Fetched:
        with self._lock:
            entry = self._entries.get(name)
            kept = entry.fetched if entry is not None else None
            failures = entry.failures + 1 if entry is not None and entry.error is not None else 1
            if isinstance(error, NotFoundError):
                failures = 1
            most = min(LONGEST_RETRY, RETRY_AFTER * 2.0 ** min(failures - 1, 16))
            pause = Seconds(RETRY_AFTER + (most - RETRY_AFTER) * self._roll())
            if entry is None or kept is None or isinstance(error, NotFoundError):
                self._put(name, Entry(None, began, error, began, failures, pause))
                self._count("miss")
                raise afresh(error)
            self._put(name, Entry(kept, entry.at, error, began, failures, pause))
            if began - entry.at > self.bound(name):
                self._count("miss")
                raise afresh(error)
            return self._answer("stale", kept)

    def _put(self, name: SecretName, entry: Entry) -> None:
        self._entries[name] = entry
        self._entries.move_to_end(name)
        self._doubted.discard(name)
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)

    def _answer(self, result: str, fetched: Fetched) -> Fetched:
        self._count(result)
        return fetched

    def _refuse(self, entry: Entry) -> AgentError:
        self._count("negative")
        assert entry.error is not None
        return afresh(entry.error)

    def _count(self, result: str) -> None:
        if result == "miss":
            self.misses += 1
        else:
            self.hits += 1
        self._told(result)
