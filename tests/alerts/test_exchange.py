"""TLS is verified, a silent peer is cut off, and only loopback is spoken to without TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.alerts.exchange import Connection, ExchangeError, is_safe
from agent.units import Bytes, Seconds


def ask(url: str, deadline: float = 5.0) -> bytes:
    connection = Connection()
    try:
        return connection.exchange(
            "GET", url, deadline=Seconds(deadline), max_body=Bytes(1000)
        ).body
    finally:
        connection.close()


@contextmanager
def silent() -> Iterator[int]:
    """A port that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def self_signed(folder: Path) -> Iterator[int]:
    """A TLS server whose certificate nobody has vouched for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                try:
                    context.wrap_socket(peer, server_side=True).close()
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10.0)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    with self_signed(tmp_path) as port, pytest.raises(ExchangeError, match="certificate"):
        ask(f"https://127.0.0.1:{port}/secretpath")


def test_a_peer_that_never_answers_the_tls_greeting_is_cut_at_the_deadline() -> None:
    with silent() as port, pytest.raises(ExchangeError, match="deadline"):
        ask(f"https://127.0.0.1:{port}/secretpath", deadline=0.3)


def test_a_peer_that_takes_the_request_and_says_nothing_is_cut_at_the_deadline() -> None:
    with silent() as port, pytest.raises(ExchangeError, match="deadline"):
        ask(f"http://127.0.0.1:{port}/secretpath", deadline=0.3)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://events.pagerduty.com/v2/enqueue", True),
        ("http://localhost:9911/v2", True),
        ("http://127.0.0.1/", True),
        ("http://[::1]:9/", True),
        ("http://events.pagerduty.com/v2/enqueue", False),
        ("http://127.0.0.1.evil.example/", False),
        ("http://localhost@evil.example/", False),
        ("http://10.0.0.1/", False),
        ("ftp://events.pagerduty.com/", False),
        ("https:///nohost", False),
    ],
)
def test_a_credential_goes_over_https_or_to_this_machine_only(url: str, safe: bool) -> None:
    assert is_safe(url) is safe
