"""Whose requests they are: AWS credentials from where a pod has them, renewed ahead of their end.

Asked in botocore's order, each only where its own variable or file says that it is meant:
1. a named profile, if one is configured; else AWS_ACCESS_KEY_ID and its companions
2. a web identity: AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN (IRSA)
3. the shared credentials file
4. a container's endpoint: AWS_CONTAINER_CREDENTIALS_FULL_URI or _RELATIVE_URI (Pod Identity, ECS)
5. the instance's metadata service, version 2 alone
A profile that assumes roles, uses SSO or runs a program is botocore's own matter: it is imported
then, and only then. Credentials are renewed `_EARLY` before they expire; while that fails, those at
hand are used as long as they last.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from agent.aws.sigv4 import Credentials
from agent.clock import Clock, SystemClock
from agent.secrets.errors import DeniedError, SecretsError, UnavailableError
from agent.secrets.providers.aws import xmlfields
from agent.secrets.providers.deadline import Deadline, Held
from agent.secrets.providers.http import HttpClient
from agent.secrets.providers.tls import TlsContexts
from agent.units import Bytes, Seconds, UnixTime

_EARLY = Seconds(600.0)
_RETRY = Seconds(10.0)
_LIMIT = Bytes(64 * 1024)
_METADATA = "http://169.254.169.254"
_METADATA_WAIT = Seconds(1.0)
_CONTAINER_HOSTS = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23", "localhost", "::1")
_FOREIGN = ("role_arn", "sso_session", "sso_start_url", "credential_process", "credential_source")

Source = Callable[[Deadline], Credentials | None]


class CredentialSource:
    """The credentials of this process. Safe from any thread."""

    def __init__(self, sources: tuple[Source, ...], clock: Clock) -> None:
        self._sources, self._clock = sources, clock
        self._lock = threading.Lock()
        self._held: Credentials | None = None
        self._look: UnixTime | None = None

    def get(self, deadline: Deadline) -> Credentials:
        """Credentials that are good now.

        Raises:
            UnavailableError: no source has any, or the one that should does not answer.
            DeniedError: STS refuses the identity.
        """
        with Held(self._lock, deadline, "getting AWS credentials"):
            now = self._clock.now()
            held = self._held
            if held is not None and (self._look is None or now < self._look):
                return held
            try:
                self._held = fresh = self._ask(deadline)
            except SecretsError:
                if held is None or held.expires is None or now >= held.expires:
                    raise
                self._look = UnixTime(now + _RETRY)
                return held
            self._look = None
            if fresh.expires is not None:
                self._look = UnixTime(max(fresh.expires - _EARLY, now + _RETRY))
            return fresh

    def forget(self) -> None:
        """AWS says that they have expired: ask anew at the next call."""
        self._look = UnixTime(0.0)
        held = self._held
        if held is not None and held.expires is not None:
            self._held = None

    def _ask(self, deadline: Deadline) -> Credentials:
        for source in self._sources:
            found = source(deadline)
            if found is not None:
                return found
        raise UnavailableError(
            "no AWS credentials were found",
            "give the pod a role (IRSA, Pod Identity, an instance profile) or a credentials file",
        )


def credential_source(
    *,
    profile: str | None = None,
    region: str = "us-east-1",
    sts_endpoint: str | None = None,
    environ: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> CredentialSource:
    """The sources that the environment offers, in order. Nothing is asked yet."""
    env = os.environ if environ is None else environ
    clock = clock or SystemClock()
    named = profile or env.get("AWS_PROFILE")
    http = _Http()
    sources: list[Source] = []
    if named:
        sources.append(lambda _deadline: from_profile(env, named, required=True))
    else:
        sources.append(lambda _deadline: from_environment(env))
    sts = sts_endpoint or f"https://sts.{region}.amazonaws.com"
    sources.append(lambda deadline: from_web_identity(env, sts, http, deadline))
    sources.append(lambda _deadline: from_profile(env, "default", required=False))
    sources.append(lambda deadline: from_container(env, http, deadline))
    sources.append(lambda deadline: from_instance(env, http, deadline))
    return CredentialSource(tuple(sources), clock)


class _Http:
    """Small requests to credential endpoints, over connections that are not kept."""

    def __init__(self) -> None:
        self._tls = TlsContexts()

    def ask(
        self,
        method: str,
        url: str,
        deadline: Deadline,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> tuple[int, bytes]:
        parts = urlsplit(url)
        client = HttpClient(f"{parts.scheme}://{parts.netloc}", tls=self._tls, max_body=_LIMIT)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            answer = client.request(
                method, target, headers=headers or {}, body=body, deadline=deadline
            )
        finally:
            client.close()
        return answer.status, answer.body


def from_environment(env: Mapping[str, str]) -> Credentials | None:
    """Keys in variables: every child process and crash report may show them."""
    key, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        return None
    return Credentials(key, secret, env.get("AWS_SESSION_TOKEN") or None)


def from_web_identity(
    env: Mapping[str, str], sts: str, http: _Http, deadline: Deadline
) -> Credentials | None:
    """A role for the pod's projected token: STS AssumeRoleWithWebIdentity, which is not signed."""
    path, role = env.get("AWS_WEB_IDENTITY_TOKEN_FILE"), env.get("AWS_ROLE_ARN")
    if not path or not role:
        return None
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": role,
        "RoleSessionName": env.get("AWS_ROLE_SESSION_NAME") or "jules-agent",
        "WebIdentityToken": _file(path, "web identity token"),
    }
    status, body = http.ask(
        "POST",
        sts.rstrip("/") + "/",
        deadline,
        {"Content-Type": "application/x-www-form-urlencoded"},
        urlencode(form).encode(),
    )
    if status in (400, 403) and b"Throttl" not in body:
        raise DeniedError(
            f"STS refuses the pod's web identity for {role} ({status})",
            "check the role's trust policy, its audience and the service account's annotation",
        )
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    found = xmlfields.pick(body, names) if status == 200 else None
    if found is None:
        raise UnavailableError(f"STS gave no credentials ({status})", "it is tried again by itself")
    key, secret, token, expires = found
    return Credentials(key, secret, token, _moment(expires))


def from_profile(env: Mapping[str, str], name: str, *, required: bool) -> Credentials | None:
    """A profile of the shared files. Where it needs more than reading, botocore is asked."""
    home = Path(env.get("HOME") or "/nonexistent") / ".aws"
    shared = Path(env.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials").expanduser()
    config = Path(env.get("AWS_CONFIG_FILE") or home / "config").expanduser()
    heading = name if name == "default" else f"profile {name}"
    sections = [_section(shared, name), _section(config, heading)]
    for section in sections:
        key = section.get("aws_access_key_id")
        secret = section.get("aws_secret_access_key")
        if key and secret:
            return Credentials(key, secret, section.get("aws_session_token") or None)
    if any(option in section for section in sections for option in _FOREIGN):
        return _from_botocore(name)
    if required:
        raise UnavailableError(
            f"AWS profile {name} has no credentials", f"add them to {shared}, or to {config}"
        )
    return None


def from_container(env: Mapping[str, str], http: _Http, deadline: Deadline) -> Credentials | None:
    """The endpoint that EKS Pod Identity or ECS put beside the container."""
    url = env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    relative = env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    if relative:
        url = f"http://169.254.170.2{relative}"
    if not url:
        return None
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https" and host not in _CONTAINER_HOSTS and not host.startswith("127."):
        raise UnavailableError(
            f"AWS_CONTAINER_CREDENTIALS_FULL_URI leads to {host} without TLS",
            "use https, or the platform's own address",
        )
    headers = {}
    token = env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    if env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        token = _file(env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"], "container token")
    if token and token.isprintable() and token.isascii():
        headers["Authorization"] = token
    status, body = http.ask("GET", url, deadline, headers)
    return _parsed(status, body, "the container's credential endpoint")


def from_instance(env: Mapping[str, str], http: _Http, deadline: Deadline) -> Credentials | None:
    """The instance's role, by IMDSv2. No answer within a second: this is no such instance."""
    if env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    base = (env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _METADATA).rstrip("/")
    deadline = deadline.sooner(_METADATA_WAIT)
    lasts = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
    try:
        status, session = http.ask("PUT", f"{base}/latest/api/token", deadline, lasts)
    except UnavailableError:
        return None
    if status != 200 or not session.isascii():
        return None
    headers = {"X-aws-ec2-metadata-token": session.decode()}
    where = f"{base}/latest/meta-data/iam/security-credentials/"
    status, roles = http.ask("GET", where, deadline, headers)
    role = roles.decode("ascii", "replace").split("\n")[0].strip()
    if status != 200 or not role.replace("-", "").replace("_", "").replace(".", "").isalnum():
        return None
    status, body = http.ask("GET", where + role, deadline, headers)
    return _parsed(status, body, "the instance's metadata service")


def _from_botocore(profile: str) -> Credentials:
    import botocore.exceptions
    import botocore.session

    try:
        found = botocore.session.Session(profile=profile).get_credentials()
        frozen = found.get_frozen_credentials() if found is not None else None
        # botocore keeps its own expiry to itself: ask it again well before any role's shortest
        expires = UnixTime(SystemClock().now() + 2 * _EARLY)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise UnavailableError(
            f"AWS profile {profile} gives no credentials ({type(error).__name__})",
            "try it with `aws sts get-caller-identity`",
        ) from None
    if frozen is None:
        raise UnavailableError(f"AWS profile {profile} gives no credentials")
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token, expires)


def _parsed(status: int, body: bytes, what: str) -> Credentials:
    fault = UnavailableError(f"{what} gave no credentials ({status})", "check the pod's role")
    if status != 200:
        raise fault
    try:
        tree: Any = json.loads(body)
        key, secret = tree["AccessKeyId"], tree["SecretAccessKey"]
        token, expires = tree.get("Token"), tree.get("Expiration")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise fault from None
    if not all(isinstance(part, str) and part for part in (key, secret)):
        raise fault
    return Credentials(key, secret, str(token) if token else None, _moment(expires))


def _moment(text: object) -> UnixTime | None:
    """An ISO time; what cannot be read counts as soon, so that it is asked for again."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return UnixTime(SystemClock().now() + _EARLY)
    return UnixTime((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _section(path: Path, heading: str) -> dict[str, str]:
    parser = ConfigParser(interpolation=None, strict=False)
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_string(file.read(_LIMIT), source=str(path))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, ConfigParserError):
        raise UnavailableError(f"{path} cannot be read", "make it a readable INI file") from None
    return dict(parser[heading]) if parser.has_section(heading) else {}


def _file(path: str, what: str) -> str:
    try:
        with open(path, "rb") as file:
            text = file.read(_LIMIT).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise UnavailableError(
            f"{what} {path} cannot be read", "it is tried again by itself"
        ) from None
    if not text:
        raise UnavailableError(f"{what} {path} is empty", "it is tried again by itself")
    return text
