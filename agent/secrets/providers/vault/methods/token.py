"""A token in a file: written there by an operator, an init container or another agent.

The file is read again when it changes. Where it holds a response-wrapping token, that is unwrapped
once, which gives the token itself; the wrapping token is spent then, so a second process (or a
restart) needs a new one, and being refused here means that somebody else may have used it.
"""

from __future__ import annotations

from pathlib import Path

from agent.secrets.model import SecretValue
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.vault.client import VaultClient, malformed
from agent.secrets.providers.vault.files import CredentialFile, unwrap
from agent.secrets.providers.vault.session import Token, parse_auth


class TokenFile:
    """Method `token`."""

    def __init__(self, path: Path, *, wrapped: bool = False) -> None:
        self._file = CredentialFile(path, "token file")
        self._wrapped = wrapped

    def login(self, client: VaultClient, deadline: Deadline) -> Token:
        text = self._file.read()
        if not self._wrapped:
            return Token(SecretValue(text.encode()), None, False)
        answer = unwrap(client, text, deadline)
        if isinstance(answer.get("auth"), dict):
            return parse_auth(answer, client.shown, "sys/wrapping/unwrap")
        data = answer.get("data")
        inner = data.get("token") if isinstance(data, dict) else None
        if not isinstance(inner, str) or not inner:
            raise malformed(client.shown, "sys/wrapping/unwrap")
        return Token(SecretValue(inner.encode()), None, False)

    def changed(self) -> bool:
        return self._file.changed()


class GivenToken:
    """Method `token` where the caller has the token itself."""

    def __init__(self, token: str) -> None:
        self._token = SecretValue(token.encode())

    def login(self, client: VaultClient, deadline: Deadline) -> Token:
        del client, deadline
        return Token(SecretValue(self._token.reveal()), None, False)

    def changed(self) -> bool:
        return False
