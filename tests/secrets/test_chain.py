"""Providers in order: who answers, and what is told when nobody does."""

from __future__ import annotations

import pytest

from agent.secrets.chain import Chain
from agent.secrets.errors import (
    DeniedError,
    NotFoundError,
    SecretsError,
    StoreError,
    UnavailableError,
)
from agent.secrets.model import secret_name
from tests.secrets.conftest import FakeProvider

A = secret_name("a")
DOWN, DENIED = UnavailableError("down"), DeniedError("denied")
ABSENT, DAMAGED = NotFoundError("absent"), StoreError("damaged")


def chain_of(*answers: bytes | SecretsError) -> tuple[Chain, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    providers = [FakeProvider(f"p{n}", {"a": answer}) for n, answer in enumerate(answers)]
    return Chain(providers, lambda provider, _name, outcome: told.append((provider, outcome))), told


@pytest.mark.parametrize("first", [DOWN, ABSENT, DAMAGED])
def test_a_provider_that_has_it_not_is_passed_over(first: SecretsError) -> None:
    chain, told = chain_of(first, b"1")
    assert chain.read(A).value.reveal() == b"1"
    assert told[-1] == ("p1", "ok")


def test_denied_ends_the_search_though_an_older_copy_lies_elsewhere() -> None:
    chain, told = chain_of(DENIED, b"old copy")
    with pytest.raises(DeniedError):
        chain.read(A)
    assert told == [("p0", "denied")]


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ((ABSENT, ABSENT), NotFoundError),
        ((ABSENT, DOWN), UnavailableError),
        ((DOWN, ABSENT), UnavailableError),
        ((DAMAGED, ABSENT), StoreError),
        ((ABSENT, DAMAGED), StoreError),
        ((DOWN, DENIED), DeniedError),
    ],
)
def test_absent_is_said_only_when_every_provider_said_so(
    answers: tuple[SecretsError, ...], kind: type[SecretsError]
) -> None:
    chain, _ = chain_of(*answers)
    with pytest.raises(kind):
        chain.read(A)


def test_no_provider_at_all_is_told_as_such() -> None:
    with pytest.raises(UnavailableError, match="no secret provider"):
        chain_of()[0].read(A)


def test_the_marker_moves_when_any_providers_does() -> None:
    one, two = FakeProvider("one"), FakeProvider("two")
    chain = Chain([one, two], lambda *_: None)
    before = chain.marker()
    two.mark = "2"
    assert chain.marker() != before
