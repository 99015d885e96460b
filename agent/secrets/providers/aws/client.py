"""Signed calls of Secrets Manager's JSON API, and the one place that reads its errors.

Every action is one POST to one address over a kept connection. Of an error only the type is read:
a message may echo a value. `ThrottlingException` is an HTTP 400 and means "not now". Credentials
that have expired are got anew, and a clock that differs from AWS's is allowed for, once a call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent.aws.sigv4 import signed
from agent.clock import Clock
from agent.secrets.errors import DeniedError, NotFoundError, SecretsError, UnavailableError
from agent.secrets.providers.aws.credentials import CredentialSource
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.http import Answer, HttpClient, ThrottledError
from agent.units import Seconds, UnixTime

_SKEW = Seconds(120.0)

_EXPIRED = frozenset(("ExpiredTokenException", "ExpiredToken", "RequestExpired"))
_SKEWED = frozenset(
    ("InvalidSignatureException", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "RequestExpired")
)
_DENIED = frozenset(
    (
        *("AccessDeniedException", "AccessDenied", "UnrecognizedClientException"),
        *("InvalidClientTokenId", "IncompleteSignature", "IncompleteSignatureException"),
        *("MissingAuthenticationToken", "MissingAuthenticationTokenException"),
        *("NotAuthorized", "OptInRequired", "DecryptionFailure", "EncryptionFailure"),
        *_EXPIRED,
        *_SKEWED,
    )
)
_NOT_NOW = frozenset(
    (
        *("ThrottlingException", "Throttling", "ThrottledException", "RequestThrottled"),
        *("RequestThrottledException", "TooManyRequestsException", "RequestLimitExceeded"),
        *("ProvisionedThroughputExceededException", "SlowDown", "ServiceUnavailable"),
        *("ServiceUnavailableException", "InternalServiceError", "InternalFailure"),
        *("InternalServerError", "RequestTimeout", "RequestTimeoutException"),
    )
)


class AwsRefusedError(SecretsError):
    """Secrets Manager takes the request for wrong; `code` is its word for why."""

    def __init__(self, message: str, remedy: str = "", code: str = "") -> None:
        super().__init__(message, remedy)
        self.code = code


class SecretsManagerClient:
    """One region's Secrets Manager. Safe from any thread."""

    def __init__(
        self, http: HttpClient, region: str, source: CredentialSource, clock: Clock
    ) -> None:
        self._http, self._region, self._source, self._clock = http, region, source, clock
        self._skew = Seconds(0.0)

    def call(
        self,
        action: str,
        payload: Mapping[str, Any],
        *,
        about: str,
        deadline: Deadline,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        """One action; `about` names its subject in errors.

        Raises:
            NotFoundError, DeniedError, UnavailableError, AwsRefusedError: as the module says.
        """
        answer = self._ask(action, payload, deadline, repeatable)
        code = error_code(answer) if answer.status != 200 else ""
        if code in _EXPIRED or (code in _SKEWED and self._skewed(answer)):
            if code in _EXPIRED:
                self._source.forget()
            answer = self._ask(action, payload, deadline, repeatable)
            code = error_code(answer) if answer.status != 200 else ""
        if answer.status == 200:
            return self._object(answer)
        raise self._translated(answer, code, action, about)

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    def _ask(
        self, action: str, payload: Mapping[str, Any], deadline: Deadline, repeatable: bool
    ) -> Answer:
        credentials = self._source.get(deadline)
        body = json.dumps(payload).encode()
        headers = {
            "Host": self._http.authority,
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"secretsmanager.{action}",
        }
        now = UnixTime(self._clock.now() + self._skew)
        path = self._http.base + "/"
        sent = signed("POST", path, headers, body, credentials, self._region, "secretsmanager", now)
        return self._http.request(
            "POST", "/", headers=sent, body=body, deadline=deadline, repeatable=repeatable
        )

    def _skewed(self, answer: Answer) -> bool:
        """Whether our clock is off by the answer's date; the difference is allowed for then."""
        from email.utils import parsedate_to_datetime  # rarely needed, and never quick to import

        try:
            theirs = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
        except (ValueError, OverflowError):
            return False
        difference = Seconds(theirs - self._clock.now())
        if abs(difference - self._skew) < _SKEW:
            return False
        self._skew = difference
        return True

    def _object(self, answer: Answer) -> dict[str, Any]:
        try:
            tree = json.loads(answer.body)
        except (ValueError, RecursionError):
            tree = None
        if not isinstance(tree, dict):
            raise self.malformed()
        return tree

    def malformed(self) -> UnavailableError:
        """The answer is not what the API promises."""
        return UnavailableError(
            f"{self._http.shown} answered with something that is not Secrets Manager's format",
            "check `endpoint`, and any proxy between",
        )

    def _translated(self, answer: Answer, code: str, action: str, about: str) -> SecretsError:
        at = f"AWS Secrets Manager in {self._region}"
        if code == "ResourceNotFoundException":
            return NotFoundError(f"{at} has no {about}", "create it, or correct region and prefix")
        if code == "InvalidRequestException" and action == "GetSecretValue":
            return NotFoundError(
                f"{about} in {at} is marked for deletion", "restore it, or take it off the list"
            )
        if code in _NOT_NOW or answer.status == 429 or answer.status >= 500:
            return ThrottledError(
                f"{at} cannot answer now ({code or answer.status})",
                "it is tried again by itself; see the account's request quotas",
                answer.retry_after,
            )
        if code in _DENIED or answer.status in (401, 403):
            return DeniedError(
                f"{at} denies {action} of {about} ({code or answer.status})",
                "give the pod's role that action on that secret, and its KMS key's decrypt",
            )
        return AwsRefusedError(
            f"{at} refuses {action} of {about} ({code or answer.status})",
            "check the name, the region and the pinned version",
            code,
        )


def error_code(answer: Answer) -> str:
    """AWS's word for what is wrong, from the body or a header; empty where there is none."""
    text: object = answer.headers.get("x-amzn-errortype", "")
    if not text:
        try:
            tree = json.loads(answer.body)
        except (ValueError, RecursionError):
            return ""
        if isinstance(tree, dict):
            text = tree.get("__type") or tree.get("code") or ""
    word = str(text).rpartition("#")[2].partition(":")[0]
    return word if word.isascii() and word.isalnum() and len(word) < 80 else ""
