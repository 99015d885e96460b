"""TLS to a backend: which authorities, which client certificate, which name.

The context is made at the first connection (loading the system's authorities costs 20 ms, a single
CA file almost nothing) and again when a file that it was made of has changed, so that a renewed
client certificate is used without a restart.
"""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path
from socket import socket

from agent.secrets.errors import UnavailableError


class TlsContexts:
    """Makes contexts from files and keeps the newest. Safe from any thread."""

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        server_name: str | None = None,
    ) -> None:
        """Nothing is read yet. Without `ca_file` the system's authorities count."""
        self._ca_file, self._cert_file, self._key_file = ca_file, cert_file, key_file
        self._server_name = server_name
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._made_of: tuple[object, ...] = ()

    def wrap(self, raw: socket, host: str) -> ssl.SSLSocket:
        """The handshake over `raw`, within its timeout.

        Raises:
            OSError: the handshake failed; a refused certificate has `verify_message`.
            UnavailableError: a file cannot be used.
        """
        return self._current().wrap_socket(raw, server_hostname=self._server_name or host)

    def _current(self) -> ssl.SSLContext:
        files = (self._ca_file, self._cert_file, self._key_file)
        try:
            made_of = tuple(_mark(path) for path in files)
            with self._lock:
                if self._context is None or made_of != self._made_of:
                    self._context, self._made_of = self._make(), made_of
                return self._context
        except OSError as error:  # ssl.SSLError is one
            named = ", ".join(str(path) for path in files if path is not None)
            why = error.strerror or "not a certificate or key that fits"
            raise UnavailableError(
                f"TLS cannot be set up from {named or 'the system'}: {why}",
                "name readable PEM files in `tls`",
            ) from None

    def _make(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._cert_file is not None:
            context.load_cert_chain(self._cert_file, self._key_file, password=_no_password)
        return context


def _no_password() -> str:
    """An encrypted key would make OpenSSL ask on the terminal: refuse instead."""
    return ""


def _mark(path: Path | None) -> object:
    if path is None:
        return None
    seen = os.stat(path)
    return (seen.st_ino, seen.st_mtime_ns, seen.st_size)
