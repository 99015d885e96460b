"""The last net: known values are found in every form that text takes."""

from __future__ import annotations

import base64
import io
import json
import logging
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.telemetry.logs import configure_logging, get_logger
from agent.telemetry.redaction import MASK, REDACTOR, Redactor

SECRET = 'pä"ss\\wo/rd +1&x'

FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "json": json.dumps,
    "json unescaped": lambda text: json.dumps(text, ensure_ascii=False),
    "twice in a repr": repr,
    "url": lambda text: urllib.parse.quote(text, safe=""),
    "url path": urllib.parse.quote,
    "form": urllib.parse.quote_plus,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64url": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}


def redactor_of(value: object) -> Redactor:
    made = Redactor()
    made.learn("a", value if isinstance(value, bytes) else json.dumps(value).encode())
    return made


@pytest.mark.parametrize("form", FORMS)
def test_a_value_is_found_in_the_form(form: str) -> None:
    told = FORMS[form](SECRET)
    for value in (SECRET, {"password": SECRET}, {"deep": [{"er": {"key": [SECRET]}}]}):
        scrubbed = redactor_of(value).scrub(f"before {told} after")
        assert MASK in scrubbed
        assert told.strip("\"'=") not in scrubbed
        assert scrubbed.startswith("before ")
        assert scrubbed.endswith(" after")


@given(user=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=9))
def test_a_password_is_found_inside_a_basic_authorization_header(user: str) -> None:
    header = base64.b64encode(f"{user}:correct-horse-battery".encode()).decode()
    scrubbed = redactor_of({"password": "correct-horse-battery"}).scrub(header)
    assert MASK in scrubbed
    decoded = base64.b64decode(scrubbed.split(MASK)[0] + "==" * 2, validate=False)
    assert b"correct" not in decoded


@settings(deadline=None)
@given(st.text(min_size=8, max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_no_text_around_a_value_hides_it(secret: str, before: str, after: str) -> None:
    if len(secret.strip()) < 8:
        return
    made = redactor_of({"key": secret})
    assert secret not in made.scrub(before + secret + after).replace(MASK, "\0")


def test_each_line_of_a_private_key_is_known() -> None:
    lines = ["-----BEGIN KEY-----", "MIIEvQIBADANBgkqhkiG9w0BAQEF", "AASCBKcwggSjAgEAAoIBAQC7"]
    for value in (json.dumps("\n".join(lines)).encode(), "\n".join(lines).encode()):
        assert redactor_of(value).scrub(f"bad line {lines[2]}") == f"bad line {MASK}"


def test_bytes_that_are_no_text_are_known_as_hex_base64_and_repr() -> None:
    key = bytes(range(200, 232))
    made = redactor_of(key)
    for told in (key.hex(), base64.b64encode(key).decode(), repr(key)):
        assert MASK in made.scrub(told)


def test_addresses_and_names_stay_readable_but_not_an_address_with_a_secret_in_it() -> None:
    value = {
        "host": "database.local",
        "username": "trading_user",
        "url": "https://vault.local:8200/",
        "endpoint": "postgres://u:pw@database.local/x",
        "webhook": "https://hooks.local/T000/B000",
        "pin": 12345678,
    }
    made = redactor_of(value)
    for plain in ("database.local", "trading_user", "https://vault.local:8200/"):
        assert made.scrub(plain) == plain
    for secret in ("postgres://u:pw@database.local/x", "https://hooks.local/T000/B000", "12345678"):
        assert made.scrub(secret) == MASK


def test_a_replaced_value_is_still_searched_for_until_the_one_after_it() -> None:
    made = Redactor()
    for value in (b'"first-value"', b'"second-value"'):
        made.learn("a", value)
    assert made.scrub("first-value second-value") == f"{MASK} {MASK}"
    made.learn("a", b'"third-value"')
    assert made.scrub("first-value") == "first-value"


def test_whatever_is_handed_to_the_log_comes_out_scrubbed() -> None:
    made = redactor_of("topsecret")
    tree = {"topsecret": [ValueError("topsecret"), b"topsecret", {"topsecret"}, ("topsecret",), 1]}
    assert "topsecret" not in json.dumps(made.scrub_tree(tree))


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_no_log_line_holds_a_known_value_however_it_got_there(
    fmt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(REDACTOR, "_known", {})
    monkeypatch.setattr(REDACTOR, "_seen", {})
    monkeypatch.setattr(REDACTOR, "_ordered", ())
    REDACTOR.learn("a", b'{"password": "canary-in-a-log"}')
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    try:
        configure_logging("debug", fmt, stream)  # type: ignore[arg-type]
        log = get_logger("test")
        log.info("canary-in-a-log", key="canary-in-a-log", deep={"x": ["canary-in-a-log"]})
        log.info("event", error=ValueError("canary-in-a-log"), data=b"canary-in-a-log")
        logging.getLogger("other.library").debug("body %s", "canary-in-a-log")
        try:
            local = "canary-in-a-log"
            raise RuntimeError(f"failed with {local}")
        except RuntimeError:
            log.exception("crashed")
            logging.getLogger("other.library").exception("crashed there")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    text = stream.getvalue()
    assert text.count("crashed") >= 2
    assert "RuntimeError" in text
    assert "canary" not in text


def test_a_local_variable_is_in_no_rendered_traceback() -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    try:
        configure_logging("debug", "json", stream)
        try:
            unknown_to_the_net = "canary-" + "local"
            raise RuntimeError("failed", len(unknown_to_the_net))
        except RuntimeError:
            get_logger("test").exception("crashed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert "RuntimeError" in stream.getvalue()
    assert "canary-local" not in stream.getvalue()
