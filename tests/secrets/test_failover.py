"""The chain over servers that fail: who is asked, for how long, and when it is asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.secrets.breaker import Breaker
from agent.secrets.chain import SKIPPED, Chain, Policy
from agent.secrets.errors import DeniedError, NotFoundError, SecretsError, UnavailableError
from agent.secrets.model import Fetched, SecretValue
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.http import ThrottledError
from agent.units import Seconds, SecretName, UnixTime
from tests.faults.clock import FakeClock

A, B = SecretName("a"), SecretName("b")
DOWN = UnavailableError("away")


@dataclass
class Server:
    """A backend whose answers a test decides; notes what it was asked and how long it had."""

    name: str
    answers: dict[SecretName, bytes | SecretsError] = field(default_factory=dict)
    down: SecretsError | None = None
    asked: list[list[SecretName]] = field(default_factory=list)
    had: list[float] = field(default_factory=list)
    mark: str = "1"

    def read(self, name: SecretName, deadline: Deadline) -> Fetched:
        answer = self.read_many([name], deadline)[name]
        if isinstance(answer, SecretsError):
            raise answer
        return answer

    def read_many(
        self, names: Sequence[SecretName], deadline: Deadline
    ) -> Mapping[SecretName, Fetched | SecretsError]:
        self.asked.append(list(names))
        self.had.append(deadline.left())
        return {name: self._one(name) for name in names}

    def _one(self, name: SecretName) -> Fetched | SecretsError:
        found = self.down or self.answers.get(name, NotFoundError("no such"))
        if isinstance(found, SecretsError):
            return found
        return Fetched(name, SecretValue(found), "1", self.name, UnixTime(0.0))

    def marker(self, deadline: Deadline) -> str:
        if self.down:
            raise self.down
        return self.mark

    def close(self) -> None:
        pass


def chain(*servers: Server, clock: FakeClock | None = None, **policy: object) -> Chain:
    told.clear()
    return Chain(
        servers,
        lambda provider, name, outcome: told.append((provider, name, outcome)),
        policy=Policy(**policy),  # type: ignore[arg-type]
        clock=clock or FakeClock(),
        roll=lambda: 1.0,
    )


told: list[tuple[str, str, str]] = []


def test_only_what_the_first_cannot_answer_is_asked_of_the_next_in_one_call() -> None:
    one, two = Server("one", {A: b"1"}), Server("two", {B: b"2"})
    answers = chain(one, two).read_many([A, B])
    assert [answers[n].provider for n in (A, B)] == ["one", "two"]  # type: ignore[union-attr]
    assert (one.asked, two.asked) == ([[A, B]], [[B]])


def test_a_secret_that_was_deleted_does_not_come_back_from_an_older_copy() -> None:
    one, two = Server("one"), Server("two", {A: b"old copy"})
    with pytest.raises(NotFoundError):
        chain(one, two, falls_through=False).read(A)
    assert two.asked == []
    assert chain(one, two, falls_through=True).read(A).provider == "two"


def test_denied_ends_the_search_for_that_name_alone() -> None:
    one = Server("one", {A: DeniedError("no"), B: DOWN})
    two = Server("two", {A: b"1", B: b"2"})
    answers = chain(one, two).read_many([A, B])
    assert isinstance(answers[A], DeniedError)
    assert isinstance(answers[B], Fetched)


def test_every_server_gets_a_share_of_the_deadline_and_the_last_gets_what_is_left() -> None:
    servers = [Server(name, down=DOWN) for name in ("one", "two", "three")]
    with pytest.raises(UnavailableError):
        chain(*servers, deadline=Seconds(9.0)).read(A)
    shares = [server.had[0] for server in servers]
    assert shares[0] == pytest.approx(3.0, abs=0.5)
    assert shares[2] == pytest.approx(9.0, abs=0.5)


def test_a_server_that_fails_is_left_alone_then_probed_once_and_comes_back() -> None:
    clock = FakeClock()
    one, two = Server("one", {A: b"1"}, down=DOWN), Server("two", {A: b"2"})
    made = chain(one, two, clock=clock, failures=2, rest=Seconds(5.0))
    for _ in range(6):
        assert made.read(A).provider == "two"
    assert len(one.asked) == 2
    assert told[-2:] == [("one", A, SKIPPED), ("two", A, "ok")]
    assert made.snapshot()[0]["state"] == "open"
    clock.tick(5.0)
    for _ in range(3):
        made.read(A)
    assert len(one.asked) == 3  # one probe, which failed: the rest doubles
    clock.tick(6.0)
    made.read(A)
    assert len(one.asked) == 3
    one.down = None
    clock.tick(4.0)
    assert [made.read(A).provider for _ in range(3)] == ["one"] * 3
    assert made.snapshot()[0] == {"name": "one", "state": "closed", "answers": 3, "error": None}


def test_a_batch_that_fails_opens_the_breaker_at_once() -> None:
    one, two = Server("one", down=DOWN), Server("two", {A: b"1", B: b"2"})
    made = chain(one, two, failures=2)
    made.read_many([A, B])
    made.read_many([A, B])
    assert len(one.asked) == 1


def test_the_wait_that_a_server_names_is_kept() -> None:
    clock = FakeClock()
    one = Server("one", {A: b"1"}, down=ThrottledError("busy", "", Seconds(30.0)))
    made = chain(one, clock=clock, failures=10)
    for _ in range(5):
        with pytest.raises(UnavailableError):
            made.read(A)
    assert len(one.asked) == 1
    one.down = None
    clock.tick(29.0)
    with pytest.raises(UnavailableError, match="left alone"):
        made.read(A)
    clock.tick(1.0)
    assert made.read(A).provider == "one"


def test_the_mark_of_a_server_that_is_away_stays_as_it_was() -> None:
    one = Server("one", mark="7")
    made = chain(one, failures=1)
    seen = made.marker()
    one.down = DOWN
    assert made.marker() == seen
    assert made.marker() == seen


class BreakerLife(RuleBasedStateMachine):
    """Whatever happens, one probe at most is out, and an open breaker always opens up again."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.breaker = Breaker(
            self.clock, failures=2, rest=Seconds(1.0), longest_rest=Seconds(8.0), roll=lambda: 1.0
        )
        self.out = 0
        self.in_a_row = 0

    @rule(ok=st.booleans())
    def call(self, ok: bool) -> None:
        was = self.breaker.state
        if not self.breaker.allows():
            assert was != "closed"
            return
        if was == "half-open":
            assert not self.breaker.allows()  # no second probe beside the first
        if ok:
            self.breaker.answered()
            self.in_a_row = 0
        else:
            self.breaker.failed()
            self.in_a_row += 1

    @rule(seconds=st.floats(0.1, 20.0))
    def wait(self, seconds: float) -> None:
        self.clock.tick(seconds)

    @invariant()
    def open_only_after_failures_and_never_for_ever(self) -> None:
        assert (self.breaker.state == "closed") == (self.in_a_row < 2)
        before = self.clock.monotonic()
        self.clock.tick(8.1)
        assert self.breaker.state in ("closed", "half-open")
        self.clock.tick(before - self.clock.monotonic())


TestBreakerLife = BreakerLife.TestCase
