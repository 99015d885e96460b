"""Calls of Vault's HTTP API, and the one place that turns its answers into our errors.

A status is all that an error tells of an answer: the text of a body may echo what was sent. What a
status means is the same for every call: 404 no such thing, 403 not for you, 412, 429 and 5xx (a
sealed server says 503) not now. The rest of a 4xx is a request that this server does not
understand: a wrong mount, a KV version that is not the configured one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from agent.secrets.errors import DeniedError, NotFoundError, SecretsError, UnavailableError
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.http import Answer, HttpClient, ThrottledError

_NOT_NOW = frozenset((412, 429, 472, 473))


class RefusedError(SecretsError):
    """Vault does not understand the request: it and the configuration disagree."""


class VaultClient:
    """One server, one namespace; knows no token of its own. Safe from any thread."""

    def __init__(self, http: HttpClient, namespace: str | None = None) -> None:
        self._http = http
        self._namespace = namespace
        self.shown = http.shown

    def call(
        self,
        method: str,
        path: str,
        *,
        deadline: Deadline,
        token: str | None = None,
        body: Mapping[str, Any] | None = None,
        query: str = "",
        repeatable: bool = False,
    ) -> dict[str, Any]:
        """One call of `/v1/PATH`; the answer's object, empty for 204.

        Args:
            query: already encoded, without the question mark.
            repeatable: a write that does no harm when it is done twice; reads always are.

        Raises:
            NotFoundError, DeniedError, UnavailableError, RefusedError: as the module says.
        """
        headers = {"X-Vault-Request": "true", "Accept": "application/json"}
        if self._namespace is not None:
            headers["X-Vault-Namespace"] = self._namespace
        if token is not None:
            headers["X-Vault-Token"] = token
        data = b""
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        answer = self._http.request(
            method,
            f"/v1/{quote(path)}" + (f"?{query}" if query else ""),
            headers=headers,
            body=data,
            deadline=deadline,
            repeatable=repeatable or method == "GET",
        )
        if answer.status in (200, 201, 204):
            return self._object(answer, path) if answer.body else {}
        raise self._translated(answer, path)

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    def _object(self, answer: Answer, path: str) -> dict[str, Any]:
        try:
            tree = json.loads(answer.body)
        except (ValueError, RecursionError):
            tree = None
        if not isinstance(tree, dict):
            raise malformed(self.shown, path)
        return tree

    def _translated(self, answer: Answer, path: str) -> SecretsError:
        status, at = answer.status, f"vault at {self.shown}"
        if status == 404:
            return NotFoundError(
                f"{at} has nothing at {path}", "write it there, or correct `mount`"
            )
        if status == 403:
            return DeniedError(
                f"{at} denies {path}",
                "give the agent's policy that path, and check its namespace and token",
            )
        if status == 503:
            return ThrottledError(
                f"{at} is sealed or overloaded (503)", "unseal it", answer.retry_after
            )
        if status in _NOT_NOW or status >= 500:
            return ThrottledError(
                f"{at} cannot answer now ({status})",
                "see its own log and its rate limits",
                answer.retry_after,
            )
        return RefusedError(
            f"{at} refuses the request for {path} ({status})",
            "check `mount`, `kv` (the engine's version) and the login's settings",
        )


def malformed(shown: str, path: str) -> UnavailableError:
    """The answer is not what Vault's API promises."""
    return UnavailableError(
        f"{shown} answered for {path} with something that is not Vault's format",
        "check that the address is Vault's, and any proxy between",
    )
