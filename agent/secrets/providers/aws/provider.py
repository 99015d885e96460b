"""AWS Secrets Manager as a provider: batches of twenty, versions and stages, one sentinel.

`BatchGetSecretValue` needs a permission of its own; where it is denied, single reads do, over up to
four connections, and the batch is tried again an hour later. A pinned name is always read alone.
Changing calls go over the same signed client: they are rare, but the same in kind.
"""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from agent.clock import Clock, SystemClock
from agent.configbackends import Aws
from agent.secrets.errors import (
    DeniedError,
    NotFoundError,
    SecretsError,
    UnavailableError,
    afresh,
)
from agent.secrets.model import Fetched, Kind, SecretType, SecretValue
from agent.secrets.providers.aws.client import AwsRefusedError, SecretsManagerClient
from agent.secrets.providers.aws.credentials import CredentialSource, credential_source
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.fanout import fan_out
from agent.secrets.providers.http import HttpClient, ThrottledError
from agent.secrets.providers.tls import TlsContexts
from agent.units import Monotonic, Seconds, SecretName, UnixTime

BATCH = 20
_WORKERS = 4
_MANAGE = Seconds(10.0)
_BATCH_AGAIN = Seconds(3600.0)
_STAGES = ("AWSCURRENT", "AWSPENDING", "AWSPREVIOUS")
_ERRORS: dict[str, type[SecretsError]] = {
    "ResourceNotFoundException": NotFoundError,
    "AccessDeniedException": DeniedError,
    "DecryptionFailure": DeniedError,
    "InvalidRequestException": NotFoundError,
}


class AwsProvider:
    """Provider `aws`."""

    name = "aws"

    def __init__(
        self, config: Aws, *, clock: Clock | None = None, source: CredentialSource | None = None
    ) -> None:
        """Nothing is asked yet. `source` overrides where credentials come from."""
        clock = clock or SystemClock()
        self._config, self._clock = config, clock
        tls = TlsContexts(
            ca_file=config.tls.ca_file,
            cert_file=config.tls.cert_file,
            key_file=config.tls.key_file,
            server_name=config.tls.server_name,
        )
        url = config.endpoint or f"https://secretsmanager.{config.region}.amazonaws.com"
        source = source or credential_source(
            profile=config.profile,
            region=config.region,
            sts_endpoint=config.sts_endpoint,
            clock=clock,
        )
        self._client = SecretsManagerClient(HttpClient(url, tls=tls), config.region, source, clock)
        self._no_batch_until: Monotonic | None = None

    def read(self, name: SecretName, deadline: Deadline) -> Fetched:
        """The current version, or the pinned one. Raises as `Provider.read`."""
        return self.read_version(name, self._config.pins.get(name), deadline)

    def read_version(self, name: SecretName, version: str | None, deadline: Deadline) -> Fetched:
        """One version, by its id or a stage such as AWSPREVIOUS. Raises as `Provider.read`."""
        payload = {"SecretId": self._id(name)}
        if version is not None:
            payload["VersionStage" if version in _STAGES else "VersionId"] = version
        tree = self._client.call("GetSecretValue", payload, about=name, deadline=deadline)
        return self._fetched(name, tree)

    def read_many(
        self, names: Sequence[SecretName], deadline: Deadline
    ) -> dict[SecretName, Fetched | SecretsError]:
        """Each name's value or its error; never raises SecretsError itself."""
        answers: dict[SecretName, Fetched | SecretsError] = {}
        plain = [name for name in names if name not in self._config.pins]
        if len(plain) > 1 and self._may_batch():
            chunks = [plain[at : at + BATCH] for at in range(0, len(plain), BATCH)]
            fan_out(lambda chunk: self._batch(chunk, answers, deadline), chunks, _WORKERS)
        down: list[SecretsError] = []

        def one(name: SecretName) -> None:
            try:
                answers[name] = afresh(down[0]) if down else self.read(name, deadline)
            except UnavailableError as error:
                down.append(error)
                answers[name] = error
            except SecretsError as error:
                answers[name] = error

        left = [name for name in names if name not in answers]
        fan_out(one, left, min(_WORKERS, 1 + len(left) // 8))
        return answers

    def marker(self, deadline: Deadline) -> str:
        """Changes when the sentinel got a new version.

        Raises:
            SecretsError: Secrets Manager could not be asked.
        """
        if self._config.sentinel is None:
            return "ttl"
        try:
            return self.current_version(self._config.sentinel, deadline)
        except NotFoundError:
            return "absent"

    def current_version(self, name: SecretName, deadline: Deadline) -> str:
        """Id of the version at AWSCURRENT, without a value. Raises as `read`."""
        tree = self._client.call(
            "DescribeSecret", {"SecretId": self._id(name)}, about=name, deadline=deadline
        )
        stages = tree.get("VersionIdsToStages")
        for version, at in stages.items() if isinstance(stages, dict) else ():
            if isinstance(at, list) and "AWSCURRENT" in at:
                return str(version)
        raise self._client.malformed()

    def write(
        self,
        name: SecretName,
        value: bytes,
        *,
        kind: Kind = "json",
        secret_type: SecretType = SecretType.API_KEY,
        description: str = "",
    ) -> str:
        """Create the secret, or put a new version of it; returns the version's id.

        Raises:
            SecretsError: nothing was written.
        """
        deadline = Deadline(_MANAGE)
        token = str(uuid.uuid4())  # makes a repeated request the same one
        held = _as_payload(value, kind)
        put = {"SecretId": self._id(name), "ClientRequestToken": token, **held}
        try:
            self._client.call("PutSecretValue", put, about=name, deadline=deadline)
        except NotFoundError:
            made = {
                "Name": self._id(name),
                "ClientRequestToken": token,
                "Description": description,
                "Tags": [{"Key": "type", "Value": secret_type.value}],
                **held,
            }
            self._client.call("CreateSecret", made, about=name, deadline=deadline)
            return token
        if description:
            about = {
                "SecretId": self._id(name),
                "ClientRequestToken": str(uuid.uuid4()),
                "Description": description,
            }
            self._client.call("UpdateSecret", about, about=name, deadline=deadline)
        tags = {
            "SecretId": self._id(name),
            "Tags": [{"Key": "type", "Value": secret_type.value}],
        }
        self._client.call("TagResource", tags, about=name, deadline=deadline)
        return token

    def rotate(self, name: SecretName) -> str:
        """Start the rotation that the secret is set up for; returns the new version's id.

        Raises:
            SecretsError: it was not started.
        """
        token = str(uuid.uuid4())
        payload = {"SecretId": self._id(name), "ClientRequestToken": token}
        tree = self._client.call("RotateSecret", payload, about=name, deadline=Deadline(_MANAGE))
        return str(tree.get("VersionId") or token)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def _may_batch(self) -> bool:
        if not self._config.batch:
            return False
        until = self._no_batch_until
        return until is None or self._clock.monotonic() >= until

    def _batch(
        self,
        names: Sequence[SecretName],
        answers: dict[SecretName, Fetched | SecretsError],
        deadline: Deadline,
    ) -> None:
        """Fill `answers`; names that stay out are left to single reads."""
        by_id = {self._id(name): name for name in names}
        payload = {"SecretIdList": list(by_id)}
        try:
            tree = self._client.call(
                "BatchGetSecretValue", payload, about=f"{len(names)} secrets", deadline=deadline
            )
        except UnavailableError as error:
            for name in names:
                answers[name] = afresh(error)
            return
        except (DeniedError, AwsRefusedError):
            self._no_batch_until = Monotonic(self._clock.monotonic() + _BATCH_AGAIN)
            return
        for found in _list(tree.get("SecretValues")):
            given = by_id.get(str(found.get("Name")))
            if given is not None:
                try:
                    answers[given] = self._fetched(given, found)
                except SecretsError as error:
                    answers[given] = error
        for wrong in _list(tree.get("Errors")):
            refused = by_id.get(str(wrong.get("SecretId")))
            if refused is not None and refused not in answers:
                answers[refused] = self._refused(refused, str(wrong.get("ErrorCode")))

    def _refused(self, name: SecretName, code: str) -> SecretsError:
        kind = _ERRORS.get(code, ThrottledError)
        word = code if kind is not ThrottledError else "no answer"
        return kind(
            f"AWS Secrets Manager in {self._config.region} gives no {name} ({word})",
            "check that it exists, and that the pod's role may read it",
        )

    def _fetched(self, name: SecretName, tree: Mapping[str, Any]) -> Fetched:
        text, encoded, version = (
            tree.get(key) for key in ("SecretString", "SecretBinary", "VersionId")
        )
        if not isinstance(version, str):
            raise self._client.malformed()
        kind: Kind
        if isinstance(text, str):
            data, kind = text.encode(), "json" if _is_tree(text) else "text"
        elif isinstance(encoded, str):
            try:
                data, kind = base64.b64decode(encoded, validate=True), "bytes"
            except (binascii.Error, ValueError):
                raise self._client.malformed() from None
        else:
            raise self._client.malformed()
        created = tree.get("CreatedDate")
        return Fetched(
            name=name,
            value=SecretValue(data),
            version=version,
            provider=self.name,
            fetched_at=self._clock.now(),
            kind=kind,
            created_at=UnixTime(float(created)) if isinstance(created, int | float) else None,
        )

    def _id(self, name: SecretName) -> str:
        return self._config.prefix + name


def _as_payload(value: bytes, kind: Kind) -> dict[str, str]:
    if kind == "bytes":
        return {"SecretBinary": base64.b64encode(value).decode()}
    text = value.decode()
    if kind == "json":
        tree = json.loads(text)
        text = tree if isinstance(tree, str) else text
    return {"SecretString": text}


def _is_tree(text: str) -> bool:
    """Whether a text is a JSON object or list; a bare number or word was meant as a text."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _list(value: object) -> list[dict[str, Any]]:
    found = value if isinstance(value, list) else []
    return [item for item in found if isinstance(item, dict)]
