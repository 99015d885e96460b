"""AppRole: a role id, which is no secret, and a secret id, which is, from a file.

A wrapped secret id is unwrapped once and kept in memory for later logins of this process.
"""

from __future__ import annotations

from pathlib import Path

from agent.secrets.model import SecretValue
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.vault.client import VaultClient, malformed
from agent.secrets.providers.vault.files import CredentialFile, unwrap
from agent.secrets.providers.vault.session import Token, parse_auth


class AppRoleLogin:
    """Method `approle`."""

    def __init__(
        self,
        mount: str,
        *,
        role_id: str | None,
        role_id_file: Path | None,
        secret_id_file: Path | None,
        wrapped: bool,
    ) -> None:
        self._path = f"auth/{mount}/login"
        self._role_id = role_id
        self._role_id_file = CredentialFile(role_id_file, "role id") if role_id_file else None
        self._secret_id_file = (
            CredentialFile(secret_id_file, "secret id") if secret_id_file else None
        )
        self._wrapped = wrapped
        self._unwrapped: SecretValue | None = None

    def login(self, client: VaultClient, deadline: Deadline) -> Token:
        role_id = self._role_id_file.read() if self._role_id_file else self._role_id
        body = {"role_id": role_id}
        secret_id = self._secret_id(client, deadline)
        if secret_id is not None:
            body["secret_id"] = secret_id
        answer = client.call("POST", self._path, deadline=deadline, body=body)
        return parse_auth(answer, client.shown, self._path)

    def changed(self) -> bool:
        return False  # ids are looked at when the next login is due: old ones served this token

    def _secret_id(self, client: VaultClient, deadline: Deadline) -> str | None:
        file = self._secret_id_file
        if file is None:
            return None
        if not self._wrapped:
            return file.read()
        if self._unwrapped is None or file.changed():
            data = unwrap(client, file.read(), deadline).get("data")
            inner = data.get("secret_id") if isinstance(data, dict) else None
            if not isinstance(inner, str) or not inner:
                raise malformed(client.shown, "sys/wrapping/unwrap")
            self._unwrapped = SecretValue(inner.encode())
        return self._unwrapped.reveal().decode()
