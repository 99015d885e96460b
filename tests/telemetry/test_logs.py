"""What a log line may hold: the event and its keywords, never a local variable, never a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from agent.telemetry.logs import configure_logging, get_logger
from agent.telemetry.redaction import MASK, REDACTOR

CANARY = "c4n4ry-of-the-log-tests"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    made = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)


def raise_with_a_secret_in_a_local() -> None:
    password = CANARY
    raise RuntimeError(f"login failed for a password of {len(password)} characters")


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_a_traceback_shows_no_local_variable(stream: io.StringIO, fmt: str) -> None:
    configure_logging("debug", fmt, stream)  # type: ignore[arg-type]
    try:
        raise_with_a_secret_in_a_local()
    except RuntimeError:
        get_logger("test").exception("could not log in")
    told = stream.getvalue()
    assert "raise_with_a_secret_in_a_local" in told
    assert "RuntimeError" in told
    assert CANARY not in told


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_a_known_secret_is_masked_wherever_it_stands(stream: io.StringIO, fmt: str) -> None:
    configure_logging("debug", fmt, stream)  # type: ignore[arg-type]
    REDACTOR.learn("test/logs", CANARY.encode())
    try:
        log = get_logger("test")
        log.info("event with %s", CANARY, key=CANARY, tree={"list": [f"x{CANARY}y"]})
        logging.getLogger("foreign.library").warning("body: %s", CANARY)
        try:
            raise ValueError(CANARY)
        except ValueError:
            log.exception("foreign error")
    finally:
        REDACTOR.learn("test/logs", b"")
    told = stream.getvalue()
    assert CANARY not in told
    assert told.count(MASK) >= 5


def test_a_json_line_is_one_object_with_the_usual_keys(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    get_logger("agent.part").info("bundle flipped", version="v2", seconds=0.5)
    [line] = stream.getvalue().splitlines()
    told = json.loads(line)
    assert told["event"] == "bundle flipped"
    assert told["version"] == "v2"
    assert told["level"] == "info"
    assert told["logger"] == "agent.part"
    assert told["ts"].endswith("Z")


@pytest.mark.parametrize("library", ["botocore.endpoint", "urllib3.connectionpool", "hvac"])
def test_a_chatty_library_is_held_at_warning_whatever_the_level(
    stream: io.StringIO, library: str
) -> None:
    configure_logging("debug", "json", stream)
    logging.getLogger(library).debug("response body: everything")
    logging.getLogger(library).warning("pool is full")
    assert "everything" not in stream.getvalue()
    assert "pool is full" in stream.getvalue()


def test_auto_is_json_where_nobody_looks(stream: io.StringIO) -> None:
    configure_logging("info", "auto", stream)
    get_logger("test").info("hello")
    json.loads(stream.getvalue())
