"""Small files that hold a credential for a login, and the unwrapping of what is wrapped in one.

Projected tokens are links and readable by the pod's group: such files are taken as the platform
makes them. A file that is missing is a reason to wait, not a fault for ever: the start of a pod is
a race that others may lose.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agent.secrets.errors import DeniedError, UnavailableError
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.vault.client import RefusedError, VaultClient

_MAX = 64 * 1024


class CredentialFile:
    """One line of text in a file, and whether it has been replaced since it was read."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what
        self._mark: tuple[int, int, int] | None = None

    def read(self) -> str:
        """The text without surrounding white space.

        Raises:
            UnavailableError: missing, unreadable, empty, too large or no text.
        """
        remedy = "put the credential there; it is tried again by itself"
        try:
            with self._path.open("rb") as file:
                seen = os.fstat(file.fileno())
                data = file.read(_MAX + 1)
        except OSError as error:
            raise UnavailableError(f"{self._what} {self._path}: {error.strerror}", remedy) from None
        self._mark = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
        text = data.decode("ascii", "replace").strip()
        if not text or len(data) > _MAX or not text.isascii() or not text.isprintable():
            raise UnavailableError(f"{self._what} {self._path} holds no credential", remedy)
        return text

    def changed(self) -> bool:
        """Whether it is another file now; one that is gone has not changed."""
        try:
            seen = os.stat(self._path)
        except OSError:
            return False
        return self._mark != (seen.st_ino, seen.st_mtime_ns, seen.st_size)


def unwrap(client: VaultClient, wrapping_token: str, deadline: Deadline) -> dict[str, Any]:
    """What was wrapped; the wrapping token is spent by this.

    Raises:
        DeniedError: it was used before, is too old, or is no wrapping token.
        UnavailableError: no answer; whether the token is spent is not known.
    """
    try:
        return client.call(
            "POST", "sys/wrapping/unwrap", deadline=deadline, token=wrapping_token, body={}
        )
    except (DeniedError, RefusedError):
        raise DeniedError(
            f"vault at {client.shown} does not unwrap the wrapping token",
            "issue a new one; if nobody of yours has used it, somebody else has: revoke what"
            " was wrapped",
        ) from None
