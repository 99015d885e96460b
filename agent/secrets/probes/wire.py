"""One socket of a probe, with a deadline over everything that is done with it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from agent.secrets.errors import UnavailableError
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.tls import TlsContexts

_LONGEST = 64 * 1024


def address_of(
    address: str | None, fields: Mapping[str, Any], default: int | None
) -> tuple[str, int]:
    """Host and port: as configured, else of the value's own fields.

    Raises:
        UnavailableError: there is no host or no port.
    """
    host, port = "", str(fields.get("port") or default or "")
    if address is not None:
        bare, colon, given = address.rpartition(":")
        if colon and not given.endswith("]"):
            host, port = bare, given
        else:
            host = address
        host = host.strip("[]")
    elif isinstance(fields.get("host"), str):
        host = fields["host"]
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UnavailableError("it is not known where to connect", "set the probe's `address`")
    return host, int(port)


class Wire:
    """A connection that is open until `close` or the end of its `with`."""

    def __init__(self, host: str, port: int, deadline: Deadline) -> None:
        """Connect. Raises OSError (TimeoutError at the deadline)."""
        self.host, self._deadline = host, deadline
        self._socket = socket.create_connection((host, port), timeout=self._left())

    def secure(self, ca_file: Path | None) -> None:
        """Speak TLS from here on; certificate and name are checked. Raises OSError."""
        self._socket.settimeout(self._left())
        self._socket = TlsContexts(ca_file=ca_file).wrap(self._socket, self.host)

    def send(self, data: bytes) -> None:
        """Raises OSError."""
        self._socket.settimeout(self._left())
        self._socket.sendall(data)

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes. Raises OSError, ValueError where that is more than any answer."""
        if not 0 <= count <= _LONGEST:
            raise ValueError("too long")
        kept = bytearray()
        while len(kept) < count:
            self._socket.settimeout(self._left())
            more = self._socket.recv(count - len(kept))
            if not more:
                raise ConnectionResetError(104, "the server closed the connection")
            kept += more
        return bytes(kept)

    def line(self) -> bytes:
        """What comes before the next CR LF. Raises OSError, ValueError where it is too long."""
        kept = bytearray()
        while not kept.endswith(b"\r\n"):
            if len(kept) > 1024:
                raise ValueError("too long")
            kept += self.exactly(1)
        return bytes(kept[:-2])

    def is_secure(self) -> bool:
        """Whether TLS is spoken."""
        return hasattr(self._socket, "cipher")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _left(self) -> float:
        left = self._deadline.left()
        if left <= 0:
            raise TimeoutError
        return left
