"""AWS IAM: a signed request that only Vault sends on, so that AWS itself says who the agent is.

What is signed is STS GetCallerIdentity; Vault passes it to STS and trusts the identity in the
answer. A role's credentials are never sent.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from agent.aws.sigv4 import signed
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.vault.client import VaultClient
from agent.secrets.providers.vault.session import Token, parse_auth

if TYPE_CHECKING:
    from agent.secrets.providers.aws.credentials import CredentialSource

_URL = "https://sts.amazonaws.com/"
_BODY = b"Action=GetCallerIdentity&Version=2011-06-15"


class AwsLogin:
    """Method `aws`."""

    def __init__(
        self,
        mount: str,
        role: str | None,
        server_id: str | None,
        source: CredentialSource | None = None,
    ) -> None:
        self._path = f"auth/{mount}/login"
        self._role, self._server_id = role, server_id
        self._source = source

    def login(self, client: VaultClient, deadline: Deadline) -> Token:
        if self._source is None:
            from agent.secrets.providers.aws.credentials import credential_source

            self._source = credential_source()
        headers = {
            "Host": "sts.amazonaws.com",
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
        }
        if self._server_id is not None:
            headers["X-Vault-AWS-IAM-Server-ID"] = self._server_id
        headers = signed(
            "POST", "/", headers, _BODY, self._source.get(deadline), "us-east-1", "sts"
        )
        listed = json.dumps({name: [value] for name, value in headers.items()})
        body = {
            "iam_http_request_method": "POST",
            "iam_request_url": base64.b64encode(_URL.encode()).decode(),
            "iam_request_body": base64.b64encode(_BODY).decode(),
            "iam_request_headers": base64.b64encode(listed.encode()).decode(),
        }
        if self._role is not None:
            body["role"] = self._role
        answer = client.call("POST", self._path, deadline=deadline, body=body, repeatable=True)
        return parse_auth(answer, client.shown, self._path)

    def changed(self) -> bool:
        return False
