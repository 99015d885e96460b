"""What a server may do to us, and what it must not achieve: every case is a typed error within the
deadline, and nothing that was sent or received is in it."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.secrets.errors import SecretsError, UnavailableError
from agent.secrets.model import Fetched
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.http import HttpClient, ThrottledError
from agent.secrets.providers.tls import TlsContexts
from agent.units import Bytes, Seconds, SecretName
from tests.faults import proxy
from tests.faults.proxy import FaultServer, response, says
from tests.secrets.providers.conftest import MakeAws, MakeVault, soon
from tests.secrets.providers.tokens import Authority
from tests.servers import ROOT_TOKEN

CANARY = b"canary-value-in-an-answer"
NAME = SecretName("database/main")
GOOD = {"data": {"data": {"a": "1"}, "metadata": {"version": 1}}}
FAULTS = {
    "silence": proxy.silent,
    "reset": proxy.reset,
    "truncated": proxy.truncated(CANARY * 10),
    "drip": proxy.drip(response(CANARY * 100)),
    "dripping head": proxy.drip(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 60000),
    "endless": proxy.endless,
    "endless head": says(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200_000),
    "redirect": says(response(b"", "307 Temporary", "Location: http://169.254.169.254/\r\n")),
    "no http": says(b"\x00\x01" + CANARY + b"\r\n\r\n"),
    "no json": says(response(b"<html>" + CANARY)),
    "no object": says(response(json.dumps([CANARY.decode()]).encode())),
    "deep json": says(response(b"[" * 100_000)),
    "wrong types": says(response(b'{"data": {"data": "x", "metadata": {"version": "canary-v"}}}')),
    "echo in an error": says(response(CANARY, "500 Oops")),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("provider", ["vault", "aws"])
def test_a_hostile_answer_is_a_typed_error_that_repeats_nothing(
    vault: MakeVault, aws: MakeAws, provider: str, fault: str
) -> None:
    with FaultServer(FAULTS[fault]) as server:
        made = vault(server.url) if provider == "vault" else aws(server.url)
        with pytest.raises(UnavailableError) as caught:
            made.read(NAME, Deadline(Seconds(0.7)))
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.told()
    for hidden in ("canary", ROOT_TOKEN):
        assert hidden not in shown


def test_fifty_names_wait_for_a_silent_server_together_and_not_in_turn(vault: MakeVault) -> None:
    with FaultServer(proxy.silent) as server:
        names = [SecretName(f"n/{at}") for at in range(50)]
        answers = vault(server.url).read_many(names, Deadline(Seconds(0.5)))
        assert all(isinstance(answers[name], UnavailableError) for name in names)
        assert server.hits <= 4


def test_a_server_that_asks_for_patience_is_heard(vault: MakeVault) -> None:
    busy = says(response(b"", "429 Slow down", "Retry-After: 7\r\n"))
    with FaultServer(busy) as server, pytest.raises(ThrottledError) as caught:
        vault(server.url).read(NAME, soon())
    assert caught.value.retry_after == 7.0


def test_a_kept_connection_that_the_server_closed_is_replaced_unnoticed(vault: MakeVault) -> None:
    def once(connection: socket.socket) -> None:
        connection.sendall(response(json.dumps(GOOD).encode()))
        connection.shutdown(socket.SHUT_RDWR)

    with FaultServer(once) as server:
        provider = vault(server.url)
        for _ in range(5):
            assert isinstance(provider.read(NAME, soon()), Fetched)


def test_one_connection_serves_many_requests(vault: MakeVault) -> None:
    seen: set[int] = set()

    def answer(connection: socket.socket) -> None:
        seen.add(connection.fileno())
        connection.sendall(response(json.dumps(GOOD).encode()))

    with FaultServer(answer) as server:
        provider = vault(server.url)
        for _ in range(10):
            provider.read(NAME, soon())
        assert server.hits == 10
    assert len(seen) == 1


json_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                (
                    *("data", "metadata", "version", "value_base64", "value", "SecretString"),
                    *("SecretBinary", "VersionId", "SecretValues", "Errors", "Name", "SecretId"),
                )
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tree=json_trees)
def test_any_json_is_a_secret_or_a_typed_error(
    vault: MakeVault, aws: MakeAws, tree: object
) -> None:
    with FaultServer(says(response(json.dumps(tree).encode()))) as server:
        for provider in (vault(server.url), aws(server.url), vault(server.url, kv=1)):
            try:
                assert isinstance(provider.read(NAME, soon()), Fetched)
            except SecretsError:
                pass
            finally:
                provider.close()
        batching = aws(server.url)
        answers = batching.read_many([NAME, SecretName("b")], soon())
        assert set(answers) == {NAME, "b"}
        batching.close()


# -- TLS -------------------------------------------------------------------------------------------


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[int]:
    """Answers one connection after another by `ok`; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            with raw:
                try:
                    with context.wrap_socket(raw, server_side=True) as connection:
                        while proxy.read_request(connection):
                            connection.sendall(response(b"ok"))
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10.0)
        listener.close()


def asked(port: int, tls: TlsContexts) -> bytes:
    client = HttpClient(f"https://127.0.0.1:{port}", tls=tls, max_body=Bytes(100))
    try:
        return client.request("GET", "/", headers={}, deadline=soon()).body
    finally:
        client.close()


def test_tls_demands_our_authority_and_the_name_and_shows_the_client_certificate(
    tmp_path: Path,
) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate, key = ours.issue("vault.internal")
    mine = ours.issue("trader")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ours.file)
    context.verify_mode = ssl.CERT_REQUIRED
    named = {"server_name": "vault.internal", "cert_file": mine[0], "key_file": mine[1]}
    with tls_server(context) as port:
        assert asked(port, TlsContexts(ca_file=ours.file, **named)) == b"ok"  # type: ignore[arg-type]
        with pytest.raises(UnavailableError, match="certificate"):
            asked(port, TlsContexts(ca_file=theirs.file, **named))  # type: ignore[arg-type]
        with pytest.raises(UnavailableError, match="certificate"):
            asked(port, TlsContexts(ca_file=ours.file, server_name="other.internal"))
        with pytest.raises(UnavailableError):
            asked(port, TlsContexts(ca_file=ours.file, server_name="vault.internal"))
        with pytest.raises(UnavailableError, match="TLS cannot be set up"):
            asked(port, TlsContexts(ca_file=tmp_path / "absent"))
