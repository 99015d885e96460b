"""The trader's word, read strictly."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bundles.health import TraderProbe, judge
from agent.configpod import TraderHealth
from agent.units import Seconds
from tests.faults.trader import TraderStub

CONFIG = TraderHealth()
WELL = {"model_loaded": True, "risk_system_active": True, "database_connected": True}


@pytest.fixture
def trader() -> Iterator[TraderStub]:
    stub = TraderStub()
    yield stub
    stub.close()


def probe(trader: TraderStub, timeout: float = 2.0) -> TraderProbe:
    return TraderProbe(TraderHealth(url=trader.url, timeout=Seconds(timeout)))


def test_a_well_trader_is_well_and_names_its_version(trader: TraderStub) -> None:
    trader.version = lambda: "v7"
    answer = probe(trader).ask()
    assert (answer.ok, answer.why, answer.version) == (True, "", "v7")


@pytest.mark.parametrize("told", [False, None, 1, "true", [True]])
def test_an_indicator_that_is_anything_but_true_is_named(told: object) -> None:
    body = json.dumps({**WELL, "database_connected": told}).encode()
    answer = judge(200, body, CONFIG)
    assert not answer.ok
    assert answer.why.startswith("database_connected is ")


def test_every_missing_indicator_is_named() -> None:
    assert judge(200, b"{}", CONFIG).why == (
        "model_loaded is missing, risk_system_active is missing, database_connected is missing"
    )


def test_a_status_other_than_200_is_unwell_whatever_the_body_says() -> None:
    answer = judge(503, json.dumps({**WELL, "model_version": "v1"}).encode(), CONFIG)
    assert (answer.ok, answer.why, answer.version) == (False, "status 503", "v1")


@given(st.integers(100, 599), st.binary(max_size=200))
def test_any_bytes_are_judged_and_only_a_whole_answer_is_well(status: int, body: bytes) -> None:
    assert not judge(status, body, CONFIG).ok


def test_a_redirect_is_not_followed(trader: TraderStub) -> None:
    trader.status = 302
    assert "status 302" in probe(trader).ask().why
    assert trader.asked == 1


def test_an_endless_body_is_cut_off(trader: TraderStub) -> None:
    trader.raw = b"x" * 200_000
    assert "longer than" in probe(trader).ask().why


def test_a_dripping_answer_meets_the_deadline(trader: TraderStub) -> None:
    trader.drip = 0.05
    answer = probe(trader, timeout=0.2).ask()
    assert not answer.ok
    assert "within 0.2 s" in answer.why


def test_nobody_there_is_an_answer_too() -> None:
    answer = TraderProbe(TraderHealth(url="http://127.0.0.1:1/health")).ask()
    assert not answer.ok
    assert not answer.heard
    assert "does not answer" in answer.why
    assert "object at" not in answer.why
    assert "Connection(" not in answer.why
