"""A signed token that the platform puts beside the pod: Kubernetes's projected service-account
token, or any JWT. Both methods take the same request at their own mount.

The file is read at every login, since the platform renews it there.
"""

from __future__ import annotations

from pathlib import Path

from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.vault.client import VaultClient
from agent.secrets.providers.vault.files import CredentialFile
from agent.secrets.providers.vault.session import Token, parse_auth


class JwtLogin:
    """Methods `kubernetes` and `jwt`."""

    def __init__(self, mount: str, role: str | None, path: Path) -> None:
        self._path = f"auth/{mount}/login"
        self._role = role
        self._file = CredentialFile(path, "token for the login")

    def login(self, client: VaultClient, deadline: Deadline) -> Token:
        body = {"jwt": self._file.read()}
        if self._role is not None:
            body["role"] = self._role
        answer = client.call("POST", self._path, deadline=deadline, body=body, repeatable=True)
        return parse_auth(answer, client.shown, self._path)

    def changed(self) -> bool:
        return False
