"""The lean client of the fast lane: the same answers as the general one, or a refusal."""

from __future__ import annotations

import asyncio
import time

import pytest

from agent.alerts.exchange import ExchangeError
from agent.alerts.fetch import Fetcher
from agent.alerts.plainhttp import NotPlainError, PlainConnection, is_plain
from agent.units import Bytes, Seconds
from tests.faults.receiver import FaultyReceiver

LIMIT = Bytes(10_000)


def get(connection: PlainConnection, target: FaultyReceiver, deadline: float = 2.0) -> bytes:
    return connection.get(target.url("/metrics"), {"Accept": "*/*"}, Seconds(deadline), LIMIT)


def test_an_answer_comes_whole_and_the_connection_is_kept() -> None:
    connection = PlainConnection()
    with FaultyReceiver() as target:
        target.answer = lambda handler: handler.reply(200, b"a 1\n" * 2000)
        for _ in range(3):
            assert get(connection, target) == b"a 1\n" * 2000
        connection.close()


@pytest.mark.parametrize("status", [404, 500, 302])
def test_another_status_is_an_error_that_names_it(status: int) -> None:
    connection = PlainConnection()
    with FaultyReceiver() as target:
        target.answer = lambda handler: handler.reply(status, b"")
        with pytest.raises(ExchangeError, match=str(status)):
            get(connection, target)
        connection.close()


def test_a_body_over_the_limit_is_refused() -> None:
    connection = PlainConnection()
    with FaultyReceiver() as target:
        target.answer = lambda handler: handler.reply(200, b"x" * (LIMIT + 1))
        with pytest.raises(ExchangeError, match="larger"):
            get(connection, target)
        connection.close()


@pytest.mark.parametrize("fault", ["silent", "reset", "half"])
def test_an_answer_that_does_not_come_is_an_error_within_the_deadline(fault: str) -> None:
    connection = PlainConnection()
    with FaultyReceiver() as target:
        target.plan(fault)
        began = time.monotonic()
        with pytest.raises((ExchangeError, NotPlainError)):
            get(connection, target, 0.3)
        assert time.monotonic() - began < 5.0
        connection.close()


def test_a_connection_that_the_target_closed_meanwhile_costs_nothing() -> None:
    connection = PlainConnection()
    with FaultyReceiver() as target:

        def once(handler) -> None:  # type: ignore[no-untyped-def]
            handler.reply(200, b"a 1\n")
            handler.close_connection = True  # without saying so

        target.answer = once
        for _ in range(3):
            assert get(connection, target) == b"a 1\n"
        connection.close()


async def test_what_is_not_plain_is_asked_for_by_the_general_client() -> None:
    with FaultyReceiver() as target:
        target.answer = lambda handler: handler.reply(200, b"a 1\n", {"Connection": "close"})
        fetcher = Fetcher("trader", plain=True)
        for _ in range(2):
            body = await fetcher.body(target.url("/metrics"), Seconds(2.0), LIMIT)
            assert body == b"a 1\n"
        fetcher.close()
        await asyncio.sleep(0)


def test_only_plain_http_without_credentials_is_tried() -> None:
    assert is_plain("http://pod:8000/metrics?name[]=a@b")
    assert not is_plain("https://pod:8000/metrics")
    assert not is_plain("http://me:word@pod:8000/metrics")
