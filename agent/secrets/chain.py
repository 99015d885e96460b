"""Providers in order: the first that has the secret answers; what the others said is kept.

Three answers are told apart. *Unavailable* (or damaged) is passed over: the next provider is asked.
*Denied* ends the search, so that a missing permission is never papered over by an older copy
elsewhere. *Not found* ends it too where `falls_through` is off: a secret that was deleted must not
come back from a forgotten copy.

A read has one deadline for all providers. Each server gets an equal share of what is left, and the
local store, which answers at once, a tenth of one: so a server that accepts and says nothing still
leaves the others their try. A circuit breaker per server spares later calls that wait.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.clock import Clock, SystemClock
from agent.secrets.breaker import Breaker
from agent.secrets.errors import (
    DeniedError,
    NotFoundError,
    SecretsError,
    StoreError,
    UnavailableError,
    afresh,
)
from agent.secrets.model import Fetched
from agent.secrets.providers.base import Backend, Provider
from agent.secrets.providers.deadline import Deadline
from agent.units import Seconds, SecretName

Told = Callable[[str, SecretName, str], None]
"""Called with provider, secret and outcome for every try: for audit and metrics."""

SKIPPED = "skipped"
"""Outcome where the provider was not asked: its breaker is open."""

_PER_NAME = Seconds(0.02)
_DEADLINE, _REST, _LONGEST_REST = Seconds(1.0), Seconds(1.0), Seconds(60.0)
_LOCAL_SHARE = 0.1

_OUTCOMES: tuple[tuple[type[SecretsError], str], ...] = (
    (NotFoundError, "not_found"),
    (DeniedError, "denied"),
    (UnavailableError, "unavailable"),
    (StoreError, "damaged"),
)


def outcome_of(error: SecretsError) -> str:
    """The one word for an error in audit and metrics."""
    for kind, word in _OUTCOMES:
        if isinstance(error, kind):
            return word
    return "error"


@dataclass(frozen=True, slots=True)
class Policy:
    """How the chain behaves; defaults as in the configuration."""

    deadline: Seconds = _DEADLINE
    falls_through: bool = True
    failures: int = 3
    rest: Seconds = _REST
    longest_rest: Seconds = _LONGEST_REST


@dataclass(slots=True)
class _Link:
    """One provider, its breaker (servers only), and what it said last."""

    provider: Provider | Backend
    breaker: Breaker | None
    marker: str = ""
    error: SecretsError | None = None
    answers: int = 0

    @property
    def share(self) -> float:
        return 1.0 if self.breaker is not None else _LOCAL_SHARE


Answers = dict[SecretName, Fetched | SecretsError]


class Chain:
    """A fallback chain over `providers`, asked in order. Safe from any thread."""

    def __init__(
        self,
        providers: Sequence[Provider | Backend],
        told: Told,
        *,
        policy: Policy | None = None,
        clock: Clock | None = None,
        roll: Callable[[], float] = random.random,
    ) -> None:
        policy, clock = policy or Policy(), clock or SystemClock()
        self._policy, self._told = policy, told
        self._links = [
            _Link(
                provider,
                Breaker(
                    clock,
                    failures=policy.failures,
                    rest=policy.rest,
                    longest_rest=policy.longest_rest,
                    roll=roll,
                )
                if isinstance(provider, Backend)
                else None,
            )
            for provider in providers
        ]

    def read(self, name: SecretName) -> Fetched:
        """The secret from the first provider that has it.

        Raises:
            SecretsError: the most telling of what the providers said: denied, else damaged or
                unavailable, else not found.
        """
        answer = self.read_many([name])[name]
        if isinstance(answer, SecretsError):
            raise answer
        return answer

    def read_many(self, names: Sequence[SecretName]) -> Answers:
        """As `read` for each, in as few calls as the providers can; errors are returned."""
        deadline = Deadline(Seconds(self._policy.deadline + _PER_NAME * (len(names) - 1)))
        final: Answers = {}
        worst: dict[SecretName, SecretsError] = {}
        for position, link in enumerate(self._links):
            pending = [name for name in names if name not in final]
            if not pending:
                break
            shares = sum(later.share for later in self._links[position:])
            within = Seconds(max(0.0, deadline.left()) * link.share / shares)
            answers = self._ask(link, pending, within)
            for name in pending:
                self._weigh(link, name, answers[name], final, worst)
        nothing = UnavailableError("no secret provider is configured", "set secrets.local")
        return {name: final.get(name) or worst.get(name) or nothing for name in names}

    def marker(self) -> str:
        """Changes whenever some provider's content may have changed. A server that does not answer
        keeps the mark it had; one whose breaker is open is not asked."""
        for link in self._links:
            if link.breaker is None:
                assert not isinstance(link.provider, Backend)
                link.marker = link.provider.marker()
            elif link.breaker.allows():
                assert isinstance(link.provider, Backend)
                try:
                    link.marker = link.provider.marker(Deadline(self._policy.deadline))
                except SecretsError as error:
                    self._note(link, [error])
                else:
                    self._note(link, [])
        return "|".join(link.marker for link in self._links)

    def provider(self, name: str) -> Provider | Backend | None:
        """The provider of that name, if it takes part."""
        return next((one.provider for one in self._links if one.provider.name == name), None)

    def snapshot(self) -> list[dict[str, Any]]:
        """Each provider in order: its state, how many reads it answered, its last failure."""
        return [
            {
                "name": link.provider.name,
                "state": link.breaker.state if link.breaker else "closed",
                "answers": link.answers,
                "error": str(link.error) if link.error else None,
            }
            for link in self._links
        ]

    def close(self) -> None:
        """Close the servers' idle connections."""
        for link in self._links:
            if isinstance(link.provider, Backend):
                link.provider.close()

    def _ask(self, link: _Link, names: Sequence[SecretName], within: Seconds) -> Answers:
        if link.breaker is None:
            assert not isinstance(link.provider, Backend)
            return {name: _plain(link.provider, name) for name in names}
        assert isinstance(link.provider, Backend)
        if not link.breaker.allows():
            told = str(link.error) if link.error else "it failed before"
            rested = _RestedError(
                f"{link.provider.name} is left alone for a while: {told}",
                link.error.remedy if link.error else "",
            )
            return dict.fromkeys(names, rested)
        deadline = Deadline(within)
        try:
            found: Mapping[SecretName, Fetched | SecretsError]
            if len(names) == 1:
                found = {names[0]: _bounded(link.provider, names[0], deadline)}
            else:
                found = link.provider.read_many(names, deadline)
        except BaseException:
            link.breaker.failed()  # a fault of ours must not leave the probe pending
            raise
        self._note(link, [answer for answer in found.values() if isinstance(answer, SecretsError)])
        missing = UnavailableError(f"{link.provider.name} left the name out of its answer")
        return {name: found.get(name, missing) for name in names}

    def _note(self, link: _Link, errors: Sequence[SecretsError]) -> None:
        """Tell the breaker how a call went."""
        assert link.breaker is not None
        down = [error for error in errors if isinstance(error, UnavailableError)]
        if not down:
            link.error = None
            link.breaker.answered()
            return
        link.error = afresh(down[0])
        link.breaker.failed(len(down), getattr(down[0], "retry_after", None))

    def _weigh(
        self,
        link: _Link,
        name: SecretName,
        answer: Fetched | SecretsError,
        final: Answers,
        worst: dict[SecretName, SecretsError],
    ) -> None:
        """Whether the answer ends the search for `name`, and what to say if nothing does."""
        if isinstance(answer, Fetched):
            final[name] = answer
            link.answers += 1
            self._told(link.provider.name, name, "ok")
            return
        rested = isinstance(answer, _RestedError)
        self._told(link.provider.name, name, SKIPPED if rested else outcome_of(answer))
        missing = isinstance(answer, NotFoundError)
        if isinstance(answer, DeniedError) or (missing and not self._policy.falls_through):
            final[name] = answer
        elif name not in worst or isinstance(worst[name], NotFoundError):
            worst[name] = answer


class _RestedError(UnavailableError):
    """The provider was not asked."""


def _plain(provider: Provider, name: SecretName) -> Fetched | SecretsError:
    try:
        return provider.read(name)
    except SecretsError as error:
        return error


def _bounded(provider: Backend, name: SecretName, deadline: Deadline) -> Fetched | SecretsError:
    try:
        return provider.read(name, deadline)
    except SecretsError as error:
        return error
