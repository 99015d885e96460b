"""The sections that name where secrets come from beside the local store: Vault and AWS.

They hold addresses, names and paths of files; never a credential. What a `method` does not use is
refused, so that a forgotten line cannot look as if it did something.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from agent.configtypes import FilePath, HttpUrl, Name, Positive, Section, left_out
from agent.units import AbsolutePath, Seconds

ApiPath = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$", max_length=400)]
Prefix = Annotated[str, Field(pattern=r"^(/?[A-Za-z0-9_.-]+/?)*$", max_length=200)]

_SERVICE_ACCOUNT_TOKEN = AbsolutePath(Path("/var/run/secrets/kubernetes.io/serviceaccount/token"))


class Tls(Section):
    """TLS to a backend."""

    ca_file: FilePath | None = Field(
        None, description="PEM of the authorities that count; default: the system's."
    )
    cert_file: FilePath | None = Field(None, description="PEM of the client certificate.")
    key_file: FilePath | None = Field(None, description="PEM of its key.")
    server_name: str | None = Field(
        None, description="Name that the server's certificate must have; default: the URL's host."
    )

    @model_validator(mode="after")
    def _pair(self) -> Tls:
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("`key_file` without `cert_file`")
        return self


_METHOD_OPTIONS: dict[str, tuple[str, ...]] = {
    "token": ("token_file", "wrapped"),
    "approle": ("mount", "role_id", "role_id_file", "secret_id_file", "wrapped"),
    "kubernetes": ("mount", "role", "jwt_file"),
    "jwt": ("mount", "role", "jwt_file"),
    "aws": ("mount", "role", "server_id"),
}
_METHOD_NEEDS: dict[str, tuple[str, ...]] = {
    "token": ("token_file",),
    "kubernetes": ("role",),
    "jwt": ("jwt_file",),
}


class VaultAuth(Section):
    """How the agent proves who it is."""

    method: Literal["token", "approle", "kubernetes", "jwt", "aws"] = Field(
        "token", description="How the agent logs in."
    )
    mount: ApiPath | None = Field(
        None, description="Where the method is mounted; default: its own name."
    )
    role: str | None = Field(None, description="Role to log in as: kubernetes, jwt, aws.")
    token_file: FilePath | None = Field(
        None, description="token: file that holds it (`VAULT_TOKEN_FILE`); read again on change."
    )
    role_id: str | None = Field(None, description="approle: the role's id, which is no secret.")
    role_id_file: FilePath | None = Field(None, description="approle: file that holds the id.")
    secret_id_file: FilePath | None = Field(
        None, description="approle: file that holds the secret id; none where the role needs none."
    )
    jwt_file: FilePath | None = Field(
        None, description="kubernetes, jwt: projected token; default: the pod's service account."
    )
    server_id: str | None = Field(
        None, description="aws: value of the X-Vault-AWS-IAM-Server-ID header, where demanded."
    )
    wrapped: bool = Field(
        False, description="The file holds a response-wrapping token, which is unwrapped once."
    )

    @model_validator(mode="after")
    def _fits_method(self) -> VaultAuth:
        allowed = _METHOD_OPTIONS[self.method]
        for option in sorted(self.model_fields_set - {"method"}):
            if option not in allowed and getattr(self, option):
                raise ValueError(f"`{option}` means nothing to method {self.method}")
        for option in _METHOD_NEEDS.get(self.method, ()):
            if getattr(self, option) is None:
                raise ValueError(f"method {self.method} needs `{option}`")
        if self.method == "approle" and (self.role_id is None) == (self.role_id_file is None):
            raise ValueError("method approle needs `role_id` or `role_id_file`")
        return self

    @property
    def mounted_at(self) -> str:
        """Path of the auth method."""
        return self.mount or self.method

    @property
    def jwt_path(self) -> AbsolutePath:
        """File of the token that kubernetes and jwt send."""
        return self.jwt_file or _SERVICE_ACCOUNT_TOKEN


class Breaker(Section):
    """When a provider that fails is left alone."""

    failures: int = Field(3, ge=1, le=100, description="Failures in a row that open it.")
    rest: Positive = Field(
        Seconds(1.0), description="First rest before one call probes it; doubles, with jitter."
    )
    longest_rest: Positive = Field(Seconds(60.0), description="Longest rest.")


class Vault(Section):
    """HashiCorp Vault or OpenBao."""

    url: HttpUrl = Field(description="Address (`VAULT_ADDR`, `VAULT_URL`).")
    namespace: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_./-]+$", description="Namespace (`VAULT_NAMESPACE`)."
    )
    auth: VaultAuth = Field(description="How the agent logs in.")
    mount: ApiPath = Field("secret", description="Where the KV engine is mounted.")
    kv: Literal[1, 2] = Field(2, description="Version of the KV engine; never asked for.")
    prefix: Prefix = Field("", description="Put before a secret's name, such as `trading/`.")
    pins: dict[Name, int] = Field(
        default_factory=dict, description="KV v2: versions that are read instead of the newest."
    )
    leased: dict[Name, ApiPath] = Field(
        default_factory=dict,
        description="Names that an engine issues: name → path, such as `database/creds/trader`.",
    )
    sentinel: Name | None = Field(
        None,
        description="KV v2: one name whose version is followed; write it after any other secret. "
        "One request a look; without it secrets are asked for again at `cache_ttl`.",
    )
    tls: Tls = left_out()

    @model_validator(mode="after")
    def _consistent(self) -> Vault:
        if self.kv == 1 and (self.pins or self.sentinel):
            raise ValueError("`pins` and `sentinel` need KV version 2")
        if any(version < 1 for version in self.pins.values()):
            raise ValueError("a pinned version is 1 or more")
        if self.auth.method == "token" and self.auth.wrapped and not self.auth.token_file:
            raise ValueError("`wrapped` needs `token_file`")
        return self


class Aws(Section):
    """AWS Secrets Manager."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", description="Region (`AWS_REGION`).")
    endpoint: HttpUrl | None = Field(
        None, description="Address of another endpoint, such as one in a VPC."
    )
    prefix: Prefix = Field("", description="Put before a secret's name, such as `trading/`.")
    pins: dict[Name, str] = Field(
        default_factory=dict,
        description="Names read at a version id or stage (AWSPREVIOUS, AWSPENDING) instead.",
    )
    batch: bool = Field(
        True, description="Read by BatchGetSecretValue; single reads where that is denied."
    )
    sentinel: Name | None = Field(
        None,
        description="One name whose versions are followed; rotate it after any other secret. "
        "One request a look; without it secrets are asked for again at `cache_ttl`.",
    )
    profile: str | None = Field(
        None, description="Profile of the shared credentials file; default: `AWS_PROFILE`."
    )
    sts_endpoint: HttpUrl | None = Field(
        None, description="Address of another STS endpoint, for web identities."
    )
    tls: Tls = left_out()


ProviderName = Literal["aws", "vault", "local"]

DEFAULT_ORDER: dict[str, tuple[ProviderName, ...]] = {
    "production": ("aws", "vault", "local"),
    "staging": ("vault", "aws", "local"),
    "development": ("local",),
}
"""Which providers are asked, in order, where `secrets.chain.order` says nothing."""


class ChainConfig(Section):
    """How the providers work together."""

    order: tuple[ProviderName, ...] | None = Field(
        None,
        description="Providers in the order asked; default: production aws, vault, local; staging "
        "vault, aws, local; development local. Those that are not configured are left out.",
    )
    deadline: Positive = Field(
        Seconds(1.0), description="Longest that one read may take over all providers."
    )
    fall_through_missing: bool | None = Field(
        None,
        description="Ask the next provider when one answers that there is no such secret. Default: "
        "true in development; elsewhere a secret that was deleted must not come back from an "
        "older copy.",
    )
    breaker: Breaker = left_out()

    @model_validator(mode="after")
    def _each_once(self) -> ChainConfig:
        if self.order is not None and (not self.order or len(set(self.order)) != len(self.order)):
            raise ValueError("name each provider once, and at least one")
        return self

    def falls_through(self, environment: str) -> bool:
        """Whether "no such secret" is asked of the next provider too."""
        if self.fall_through_missing is not None:
            return self.fall_through_missing
        return environment == "development"


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own, where TLS protects nothing."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
