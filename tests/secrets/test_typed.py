"""Typed secrets: what each kind must have, and errors that name fields and never a value."""

from __future__ import annotations

import base64
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.secrets.errors import ShapeError
from agent.secrets.model import SecretType
from agent.secrets.typed import (
    ApiKey,
    BrokerCredentials,
    DatabasePassword,
    EncryptionKey,
    JwtSecret,
    S3Credentials,
    Typed,
    WebhookToken,
    parse,
)

GOOD: dict[SecretType, tuple[object, Typed]] = {
    SecretType.DATABASE_PASSWORD: (
        {"host": "db", "port": "5432", "username": "u", "password": "p", "database": "d", "x": 1},
        DatabasePassword("db", "p", "u", "d", 5432),
    ),
    SecretType.S3_CREDENTIALS: (
        {"access_key_id": "AKIA", "secret_access_key": "s", "region": "eu-west-1"},
        S3Credentials("AKIA", "s", region="eu-west-1"),
    ),
    SecretType.BROKER_CREDENTIALS: (
        {"account_id": "DU1", "username": "u", "password": "p", "port": 7497, "client_id": 1},
        BrokerCredentials("DU1", "u", "p", port=7497, client_id=1),
    ),
    SecretType.API_KEY: ("k-123", ApiKey("k-123")),
    SecretType.ENCRYPTION_KEY: (base64.b64encode(b"k" * 32).decode(), EncryptionKey(b"k" * 32)),
    SecretType.JWT_SECRET: (
        {"secret": "s" * 32, "algorithm": "HS256"},
        JwtSecret("s" * 32, "HS256"),
    ),
    SecretType.WEBHOOK_TOKEN: (
        "https://hooks.slack.com/services/T/B/X",
        WebhookToken(url="https://hooks.slack.com/services/T/B/X"),
    ),
}


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.value)
def test_a_value_with_its_fields_is_read_and_shows_none_of_them(kind: SecretType) -> None:
    value, wanted = GOOD[kind]
    made = parse("a", kind, json.dumps(value).encode())
    assert made == wanted
    assert repr(made) == f"{type(made).__name__}([secret])"
    with pytest.raises(TypeError):
        pickle.dumps(made)


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (SecretType.DATABASE_PASSWORD, {"host": "db", "port": 1}, "database, username, password"),
        (SecretType.DATABASE_PASSWORD, {"engine": "redis", "host": "r"}, "lacks password"),
        (SecretType.S3_CREDENTIALS, {"access_key_id": ""}, "access_key_id, secret_access_key"),
        (SecretType.BROKER_CREDENTIALS, {"account_id": "A"}, "lacks username, password"),
        (SecretType.API_KEY, {"token": "x"}, "lacks key"),
        (SecretType.API_KEY, "  ", "empty"),
        (SecretType.ENCRYPTION_KEY, "c2hvcnQ=", "shorter than 16 bytes"),
        (SecretType.ENCRYPTION_KEY, {"key": "§"}, "neither hex nor base64"),
        (SecretType.JWT_SECRET, "topsecret-short", "shorter than 32 bytes"),
        (SecretType.WEBHOOK_TOKEN, {"channel": "#x"}, "lacks url or token"),
        (SecretType.DATABASE_PASSWORD, "topsecret", "no JSON object"),
    ],
)
def test_what_is_missing_is_named(kind: SecretType, value: object, told: str) -> None:
    with pytest.raises(ShapeError, match=told):
        parse("a", kind, json.dumps(value).encode())


def test_a_redis_needs_neither_user_nor_database() -> None:
    value = {"engine": "redis", "host": "r", "port": 6379, "password": "p"}
    made = parse("a", SecretType.DATABASE_PASSWORD, json.dumps(value).encode())
    assert isinstance(made, DatabasePassword)
    assert (made.username, made.port) == (None, 6379)


def test_raw_bytes_are_an_encryption_key_as_they_are() -> None:
    made = parse("a", SecretType.ENCRYPTION_KEY, bytes(range(200, 232)))
    assert made == EncryptionKey(bytes(range(200, 232)))


FIELDS = st.sampled_from(
    (
        *("host", "port", "username", "password", "database", "key", "secret", "token", "url"),
        *("access_key_id", "secret_access_key", "account_id", "client_id", "algorithm"),
    )
)
CANARY = "canary-7f3a"
PARTS = st.sampled_from([CANARY, [CANARY], {CANARY: CANARY}, True, -1, 70000, None, 1.5])


@given(
    st.sampled_from(list(GOOD)),
    st.one_of(
        st.dictionaries(FIELDS, PARTS).map(lambda tree: json.dumps(tree).encode()),
        PARTS.map(lambda part: json.dumps(part).encode()),
        st.binary().map(lambda data: data + CANARY.encode()),
    ),
)
def test_any_value_is_read_or_refused_without_a_byte_of_it(kind: SecretType, value: bytes) -> None:
    try:
        parse("a", kind, value)
    except ShapeError as error:
        assert CANARY not in error.told()
        assert error.__cause__ is None
