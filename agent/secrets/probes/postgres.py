"""A login to PostgreSQL in its wire protocol, version 3: SCRAM-SHA-256, MD5 or plain text.

Plain text and MD5 are answered only over TLS or to this very machine: whoever stands between would
have the password. SCRAM proves that the server knows it too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from pathlib import Path

from agent.configbackends import is_loopback
from agent.secrets.probes.wire import Wire

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_VERSION = 196608
_MOST_MESSAGES = 64
_MOST_ITERATIONS = 2_000_000
_OK, _PLAIN, _MD5, _SASL, _SASL_MORE, _SASL_END = 0, 3, 5, 10, 11, 12


def log_in(
    wire: Wire, *, user: str, password: str, database: str, tls: bool, ca_file: Path | None
) -> str:
    """Why the login is refused; empty where it is not. Raises OSError, ValueError."""
    if tls:
        wire.send(_SSL_REQUEST)
        if wire.exactly(1) != b"S":
            return "the server speaks no TLS"
        wire.secure(ca_file)
    given = b"".join(part.encode() + b"\0" for part in ("user", user, "database", database))
    body = struct.pack("!i", _VERSION) + given + b"\0"
    wire.send(struct.pack("!i", len(body) + 4) + body)
    login = _Login(wire, user, password)
    for _ in range(_MOST_MESSAGES):
        kind, data = _message(wire)
        if kind == b"E":
            return f"the login is refused (SQLSTATE {_sqlstate(data)})"
        if kind == b"Z":
            wire.send(b"X" + struct.pack("!i", 4))
            return ""
        why = login.answer(data) if kind == b"R" else ""
        if why:
            return why
    return "the server does not come to an end"


class _Login:
    """What the server asks for, one message after another."""

    def __init__(self, wire: Wire, user: str, password: str) -> None:
        self._wire, self._user, self._password = wire, user, password
        self._scram = _Scram(password)

    def answer(self, data: bytes) -> str:
        """Answer it; why not, where it cannot be."""
        asked = struct.unpack("!i", data[:4])[0]
        if asked in (_PLAIN, _MD5):
            return self._simple(asked, data[4:8])
        if asked == _SASL and b"SCRAM-SHA-256" in data[4:].split(b"\0"):
            first = self._scram.first()
            self._send(b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
        elif asked == _SASL_MORE:
            self._send(self._scram.proof(data[4:]))
        elif asked == _SASL_END:
            return "" if self._scram.fits(data[4:]) else "the server does not know the password"
        elif asked != _OK:
            return "the server asks for a login that is not known here"
        return ""

    def _simple(self, asked: int, salt: bytes) -> str:
        wire = self._wire
        if not (wire.is_secure() or is_loopback(f"x://{wire.host}")):
            return "the server asks for the password over a connection that others can read"
        if asked == _PLAIN:
            self._send(self._password.encode() + b"\0")
        else:
            self._send(_md5(self._user, self._password, salt))
        return ""

    def _send(self, data: bytes) -> None:
        self._wire.send(b"p" + struct.pack("!i", len(data) + 4) + data)


def _message(wire: Wire) -> tuple[bytes, bytes]:
    kind = wire.exactly(1)
    (length,) = struct.unpack("!i", wire.exactly(4))
    return kind, wire.exactly(length - 4)


def _sqlstate(data: bytes) -> str:
    """The five letters of an error; its text stays where it is."""
    for part in data.split(b"\0"):
        if part.startswith(b"C") and len(part) == 6 and part.isalnum():
            return part[1:].decode("ascii", "replace")
    return "unknown"


def _md5(user: str, password: str, salt: bytes) -> bytes:
    inner = hashlib.md5((password + user).encode(), usedforsecurity=False).hexdigest()
    outer = hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()
    return b"md5" + outer.encode() + b"\0"


class _Scram:
    """One exchange of RFC 5802 with SHA-256, without channel binding."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._nonce = base64.b64encode(secrets.token_bytes(18))
        self._expected = b""

    def first(self) -> bytes:
        return b"n,," + self._bare()

    def proof(self, challenge: bytes) -> bytes:
        """The answer to the server's first message. Raises ValueError, LookupError."""
        told = dict(part.split(b"=", 1) for part in challenge.split(b","))
        nonce, salt, rounds = told[b"r"], base64.b64decode(told[b"s"]), int(told[b"i"])
        if not nonce.startswith(self._nonce) or not 1 <= rounds <= _MOST_ITERATIONS:
            raise ValueError("nonce or rounds")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, rounds)
        client = hmac.digest(salted, b"Client Key", "sha256")
        last = b"c=biws,r=" + nonce
        signed = b",".join((self._bare(), challenge, last))
        mask = hmac.digest(hashlib.sha256(client).digest(), signed, "sha256")
        proof = bytes(one ^ other for one, other in zip(client, mask, strict=True))
        server = hmac.digest(salted, b"Server Key", "sha256")
        self._expected = hmac.digest(server, signed, "sha256")
        return last + b",p=" + base64.b64encode(proof)

    def fits(self, final: bytes) -> bool:
        wanted = b"v=" + base64.b64encode(self._expected)
        return hmac.compare_digest(final.partition(b",")[0], wanted)

    def _bare(self) -> bytes:
        return b"n=,r=" + self._nonce
