"""The cache before the providers: ages, one call for many, old values while a provider fails."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.secrets.cache import LONGEST_RETRY, MAX_ENTRIES, RETRY_AFTER, Cache
from agent.secrets.errors import DeniedError, NotFoundError, SecretsError, UnavailableError
from agent.secrets.model import SecretValue, secret_name
from agent.units import Seconds, SecretName
from tests.faults.clock import FakeClock
from tests.secrets.conftest import FakeProvider

A = secret_name("a")
TTL = Seconds(300.0)
STALE = Seconds(3600.0)
DOWN = UnavailableError("down")


def cache_of(
    provider: FakeProvider,
    clock: FakeClock,
    bounds: dict[SecretName, Seconds] | None = None,
    roll: float = 0.0,
) -> tuple[Cache, Counter[str]]:
    told: Counter[str] = Counter()

    def count(result: str) -> None:
        told[result] += 1

    made = Cache(
        provider.read,
        clock,
        ttl=TTL,
        max_stale=STALE,
        told=count,
        bounds=bounds,
        roll=lambda: roll,
    )
    return made, told


def test_within_the_ttl_the_provider_is_asked_once(provider: FakeProvider) -> None:
    provider.values["a"] = b"1"
    clock = FakeClock()
    cache, told = cache_of(provider, clock)
    for _ in range(5):
        assert cache.get(A).value.reveal() == b"1"
        clock.tick(TTL / 5 - 0.1)
    clock.tick(0.6)
    cache.get(A)
    assert len(provider.calls) == 2
    assert told == {"miss": 2, "hit": 4}


def test_a_step_of_the_wall_clock_neither_ends_nor_renews_an_entry(provider: FakeProvider) -> None:
    provider.values["a"] = b"1"
    clock = FakeClock()
    cache, _ = cache_of(provider, clock)
    cache.get(A)
    clock.step_wall(1e6)
    cache.get(A)
    assert len(provider.calls) == 1


def test_a_hundred_threads_that_miss_make_one_call(provider: FakeProvider) -> None:
    provider.values["a"] = b"1"
    cache, told = cache_of(provider, FakeClock())
    ready, go = threading.Barrier(101), threading.Event()
    provider.before = lambda: go.wait(10)

    def ask() -> bytes:
        ready.wait(10)
        return cache.get(A).value.reveal()

    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(ask) for _ in range(100)]
        ready.wait(10)
        go.set()
        assert {one.result(10) for one in asked} == {b"1"}
    assert len(provider.calls) == 1
    assert told["miss"] == 1
    assert sum(told.values()) == 100


def test_threads_that_wait_for_a_call_that_fails_share_its_error(provider: FakeProvider) -> None:
    provider.values["a"] = DOWN
    cache, _ = cache_of(provider, FakeClock())
    ready, go = threading.Barrier(21), threading.Event()
    provider.before = lambda: go.wait(10)

    def ask() -> SecretsError:
        ready.wait(10)
        with pytest.raises(UnavailableError) as caught:
            cache.get(A)
        return caught.value

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(ask) for _ in range(20)]
        ready.wait(10)
        go.set()
        found = [one.result(10) for one in asked]
    assert len(provider.calls) == 1
    assert len({id(error) for error in found}) == 20  # each its own, or tracebacks would mix


def test_while_one_thread_renews_an_old_value_the_others_get_it_at_once(
    provider: FakeProvider,
) -> None:
    provider.values["a"] = b"old"
    clock = FakeClock()
    cache, _ = cache_of(provider, clock)
    cache.get(A)
    clock.tick(TTL + 1)
    provider.values["a"] = b"new"
    asked, go = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        go.wait(10)

    provider.before = hang
    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(lambda: cache.get(A).value.reveal())
        assert asked.wait(10)
        assert cache.get(A).value.reveal() == b"old"  # would hang for ever if it waited
        go.set()
        assert renewing.result(10) == b"new"
    assert cache.get(A).value.reveal() == b"new"


def test_an_old_value_serves_while_the_provider_fails_up_to_its_bound_and_its_age_goes_on(
    provider: FakeProvider,
) -> None:
    provider.values["a"] = b"1"
    clock = FakeClock()
    cache, told = cache_of(provider, clock)
    cache.get(A)
    provider.values["a"] = DOWN
    passed = 0.0
    while passed + 60 <= STALE:
        clock.tick(60)
        passed += 60
        assert cache.get(A).value.reveal() == b"1"
        assert cache.age(A) == pytest.approx(passed)
    assert told["stale"] == (STALE - TTL) / 60 + 1
    clock.tick(61)
    with pytest.raises(UnavailableError):
        cache.get(A)
    provider.values["a"] = b"2"
    clock.tick(RETRY_AFTER)
    assert cache.get(A).value.reveal() == b"2"
    assert cache.age(A) == Seconds(0.0)


def test_a_provider_that_has_just_failed_is_left_alone_for_a_while(provider: FakeProvider) -> None:
    clock = FakeClock()
    cache, _ = cache_of(provider, clock)
    provider.values["a"] = DOWN
    for _ in range(10):
        with pytest.raises(UnavailableError):
            cache.get(A)
    assert len(provider.calls) == 1
    clock.tick(RETRY_AFTER)
    provider.values["a"] = b"1"
    assert cache.get(A).value.reveal() == b"1"
    provider.values["a"] = DOWN
    clock.tick(TTL)
    for _ in range(10):
        assert cache.get(A).value.reveal() == b"1"
    assert len(provider.calls) == 3


def test_no_such_secret_is_remembered_briefly_and_ends_an_older_value(
    provider: FakeProvider,
) -> None:
    clock = FakeClock()
    cache, told = cache_of(provider, clock)
    provider.values["a"] = b"1"
    cache.get(A)
    clock.tick(TTL)
    del provider.values["a"]
    for _ in range(5):
        with pytest.raises(NotFoundError):
            cache.get(A)
    assert len(provider.calls) == 2
    assert told["negative"] == 4
    assert cache.age(A) is None
    clock.tick(RETRY_AFTER)
    provider.values["a"] = b"2"
    assert cache.get(A).value.reveal() == b"2"


def test_a_token_that_is_denied_keeps_the_old_value_within_its_bound(
    provider: FakeProvider,
) -> None:
    clock = FakeClock()
    cache, _ = cache_of(provider, clock)
    provider.values["a"] = b"1"
    cache.get(A)
    clock.tick(TTL)
    provider.values["a"] = DeniedError("no")
    assert cache.get(A).value.reveal() == b"1"


def test_an_error_that_is_told_again_grows_no_traceback(provider: FakeProvider) -> None:
    cache, _ = cache_of(provider, FakeClock())
    lengths = set()
    for _ in range(30):
        with pytest.raises(NotFoundError) as caught:
            cache.get(A)
        lengths.add(len(caught.traceback))
    assert len(provider.calls) == 1
    assert max(lengths) < 10
    entry = cache.peek(A)
    assert entry is not None
    assert entry.error is not None
    assert entry.error.__traceback__ is None


def test_a_slow_answer_never_replaces_a_newer_one(provider: FakeProvider) -> None:
    clock = FakeClock()
    cache, _ = cache_of(provider, clock)
    provider.values["a"] = b"old"
    began, go = threading.Event(), threading.Event()
    first = True

    def slow_at_first() -> None:
        nonlocal first
        if first:
            first = False
            began.set()
            go.wait(10)

    provider.before = slow_at_first
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(cache.refresh, A)
        assert began.wait(10)
        clock.tick(1)
        provider.values["a"] = b"new"
        assert cache.refresh(A).value.reveal() == b"new"
        provider.values["a"] = b"old"
        go.set()
        assert slow.result(10).value.reveal() == b"new"
    assert cache.get(A).value.reveal() == b"new"


def test_what_is_evicted_or_cleared_is_wiped_once_nobody_holds_it(provider: FakeProvider) -> None:
    cache, _ = cache_of(provider, FakeClock())
    provider.values["a"] = b"topsecret"
    held = cache.get(A)
    buffer = held.value._data
    assert buffer is not None
    for number in range(MAX_ENTRIES):
        provider.values[f"n{number}"] = b"x"
        cache.get(secret_name(f"n{number}"))
    assert cache.peek(A) is None
    assert held.value.reveal() == b"topsecret"  # never emptied under a holder's hands
    del held
    assert bytes(buffer) == bytes(len(b"topsecret"))
    other = cache.get(secret_name("n9")).value._data
    cache.clear()
    assert other is not None
    assert bytes(other) == b"\0"


def test_readers_never_see_a_value_wiped_while_entries_come_and_go(provider: FakeProvider) -> None:
    provider.values["a"] = b"topsecret"
    cache, _ = cache_of(provider, FakeClock())
    stop = threading.Event()

    def read() -> set[bytes]:
        return {cache.get(A).value.reveal() for _ in range(3000)}

    def disturb() -> None:
        while not stop.is_set():
            cache.clear()
            cache.refresh(A)

    with ThreadPoolExecutor(5) as pool:
        disturbing = pool.submit(disturb)
        seen = [pool.submit(read) for _ in range(4)]
        results = [one.result(60) for one in seen]
        stop.set()
        disturbing.result(10)
    assert results == [{b"topsecret"}] * 4


def test_a_wiped_value_says_so_instead_of_passing_for_an_empty_one() -> None:
    value = SecretValue(b"x")
    value.wipe()
    with pytest.raises(RuntimeError, match="wiped"):
        value.reveal()


def test_a_value_shows_itself_in_no_text_and_is_never_pickled() -> None:
    value = SecretValue(b"topsecret")
    for text in (repr(value), str(value), f"{value}", f"{value!r:>20}", "%s" % value, f"{[value]}"):  # noqa: UP031
        assert "topsecret" not in text
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(value)


class CacheMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: no value older than the bound, no age renewed."""

    def __init__(self) -> None:
        super().__init__()
        self.provider = FakeProvider()
        self.clock = FakeClock()
        self.cache, _ = cache_of(self.provider, self.clock)
        self.set_at: dict[bytes, float] = {}
        self.number = 0

    @rule(seconds=st.sampled_from([1.0, 4.0, 6.0, 299.0, 301.0, 1800.0, 3601.0]))
    def wait(self, seconds: float) -> None:
        self.clock.tick(seconds)

    @rule()
    def put(self) -> None:
        self.number += 1
        self.provider.values["a"] = str(self.number).encode()

    @rule(error=st.sampled_from([DOWN, DeniedError("no")]))
    def fail(self, error: SecretsError) -> None:
        self.provider.values["a"] = error

    @rule()
    def remove(self) -> None:
        self.provider.values.pop("a", None)

    @rule(refresh=st.booleans())
    def ask(self, refresh: bool) -> None:
        calls = len(self.provider.calls)
        now = self.clock.monotonic()
        real = self.provider.values.get("a")
        try:
            value = (self.cache.refresh if refresh else self.cache.get)(A).value.reveal()
        except SecretsError:
            assert not isinstance(real, bytes) or len(self.provider.calls) == calls
            return
        if len(self.provider.calls) > calls and isinstance(real, bytes):
            assert value == real
            self.set_at[value] = now
        assert now - self.set_at[value] <= STALE

    @invariant()
    def age_is_that_of_the_fetch(self) -> None:
        entry = self.cache.peek(A)
        if entry is not None and entry.fetched is not None:
            assert entry.at == self.set_at[entry.fetched.value.reveal()]


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


def test_a_name_that_goes_on_failing_is_asked_for_ever_less_and_the_others_as_before(
    provider: FakeProvider,
) -> None:
    provider.values["a"], provider.values["b"] = DOWN, b"1"
    clock = FakeClock()
    cache, _ = cache_of(provider, clock, roll=1.0)
    cache.get(secret_name("b"))
    pauses = []
    for _ in range(7):
        with pytest.raises(UnavailableError):
            cache.get(A)
        pauses.append(cache.due_in(A))
        clock.tick(cache.due_in(A))
    assert pauses == [5, 10, 20, 40, *[LONGEST_RETRY] * 3]
    provider.values["a"] = b"1"
    cache.get(A)
    provider.values["a"] = DOWN
    clock.tick(TTL)
    cache.get(A)
    assert cache.due_in(A) == RETRY_AFTER
    assert provider.calls.count("b") == 1


@pytest.mark.parametrize("roll", [0.0, 0.5, 1.0])
def test_a_value_is_due_up_to_a_tenth_of_its_ttl_early_and_fresh_until_its_end(
    provider: FakeProvider, roll: float
) -> None:
    provider.values["a"] = b"1"
    clock = FakeClock()
    cache, _ = cache_of(provider, clock, roll=roll)
    cache.get(A)
    assert cache.due_in(A) == pytest.approx(TTL * (1 - 0.1 * roll))
    clock.tick(TTL - 0.1)
    cache.get(A)
    assert len(provider.calls) == 1


def test_what_was_read_in_one_call_is_due_together(provider: FakeProvider) -> None:
    provider.values.update({"a": b"1", "b": b"2"})
    rolls = iter((0.3, 0.9))
    cache = Cache(provider.read, FakeClock(), ttl=TTL, max_stale=STALE, roll=lambda: next(rolls))
    names = [A, secret_name("b")]
    cache.refresh_many(names, lambda asked: {name: provider.read(name) for name in asked})
    assert len({cache.due_in(name) for name in names}) == 1


def test_a_bound_of_its_own_ends_a_value_sooner_and_the_others_live_on(
    provider: FakeProvider,
) -> None:
    b = secret_name("b")
    provider.values.update({"a": b"1", "b": b"2"})
    clock = FakeClock()
    cache, _ = cache_of(provider, clock, bounds={A: Seconds(400.0)})
    cache.get(A)
    cache.get(b)
    provider.values.update({"a": DOWN, "b": DOWN})
    clock.tick(401)
    with pytest.raises(UnavailableError):
        cache.get(A)
    assert cache.get(b).value.reveal() == b"2"


def test_a_doubted_value_is_asked_for_again_and_serves_on_while_the_provider_fails(
    provider: FakeProvider,
) -> None:
    provider.values["a"] = b"1"
    clock = FakeClock()
    cache, _ = cache_of(provider, clock)
    cache.get(A)
    clock.tick(10)
    cache.doubt()
    provider.values["a"] = DOWN
    assert cache.get(A).value.reveal() == b"1"
    assert cache.age(A) == Seconds(10.0)
    provider.values["a"] = b"2"
    clock.tick(RETRY_AFTER)
    cache.doubt()
    assert cache.get(A).value.reveal() == b"2"
    cache.doubt(but=[A])
    cache.get(A)
    assert len(provider.calls) == 3
