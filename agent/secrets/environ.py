"""The providers that a process's environment names, for the library and for scripts.

Asked in the hierarchy of the environment (production AWS, Vault, local store; staging Vault, AWS,
local; development local), each only where its variables say how to reach it:
- aws: `AWS_REGION` or `AWS_DEFAULT_REGION`, and AWS's usual sources of credentials
- vault: `VAULT_ADDR` or `VAULT_URL`, and `VAULT_TOKEN_FILE`, `VAULT_ROLE` (Kubernetes) or
  `VAULT_TOKEN`
- local: `SECRETS_STORAGE_PATH`, `SECRETS_KEY_FILE` or `SECRETS_MASTER_PASSWORD`; in development
  always, in ./secrets
`SECRETS_PROVIDERS=vault,local` names them outright, in that order: a pod on EKS has `AWS_REGION`
without having secrets there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agent.clock import Clock
from agent.configbackends import DEFAULT_ORDER
from agent.secrets.errors import SecretsError, UnavailableError
from agent.secrets.providers.local import LocalStore
from agent.secrets.verbs import new_key_file
from agent.telemetry.logs import get_logger

if TYPE_CHECKING:
    from agent.secrets.providers.aws.provider import AwsProvider
    from agent.secrets.providers.vault.provider import VaultProvider

_log = get_logger(__name__)

Environ = Mapping[str, str]


def providers_from(
    environ: Environ, clock: Clock
) -> list[LocalStore | AwsProvider | VaultProvider]:
    """The providers, in the order asked.

    Raises:
        UnavailableError: none can be reached by the variables, or SECRETS_PROVIDERS names one that
            cannot, or that there is not.
    """
    environment = environ.get("ENVIRONMENT") or "development"
    named = [part.strip() for part in environ.get("SECRETS_PROVIDERS", "").split(",")]
    named = [part for part in named if part]
    made: list[LocalStore | AwsProvider | VaultProvider] = []
    for name in named or DEFAULT_ORDER.get(environment, DEFAULT_ORDER["development"]):
        provider: LocalStore | AwsProvider | VaultProvider | None
        if name == "aws":
            provider = _aws(environ, clock)
        elif name == "vault":
            provider = _vault(environ, clock)
        elif name == "local":
            wanted = bool(named) or environment not in ("production", "staging")
            provider = _local(environ) if wanted or _names_local(environ) else None
        else:
            raise UnavailableError(
                "SECRETS_PROVIDERS names a provider that there is not", "use aws, vault, local"
            )
        if provider is not None:
            made.append(provider)
        elif named:
            raise UnavailableError(
                f"SECRETS_PROVIDERS names {name}, which no variable says how to reach",
                _HOW[name],
            )
    if not made:
        raise UnavailableError(
            f"{environment} reads from AWS Secrets Manager and Vault, and no variable says how to "
            "reach them",
            "set AWS_REGION, or VAULT_ADDR and VAULT_TOKEN_FILE; SECRETS_PROVIDERS=local uses the "
            "local encrypted store knowingly",
        )
    return made


_GIVEN = "/dev/null"
"""Stands for the file of a token that is handed over itself."""
_HOW = {
    "aws": "set AWS_REGION",
    "vault": "set VAULT_ADDR, and VAULT_TOKEN_FILE or VAULT_ROLE",
}


def _aws(environ: Environ, clock: Clock) -> AwsProvider | None:
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if not region:
        return None
    from agent.configbackends import Aws
    from agent.secrets.providers.aws.provider import AwsProvider

    endpoint = environ.get("AWS_ENDPOINT_URL_SECRETS_MANAGER") or environ.get("AWS_ENDPOINT_URL")
    try:
        section = Aws.model_validate({"region": region, "endpoint": endpoint or None})
    except ValueError:
        raise UnavailableError(
            "AWS's variables hold no region or no address", _HOW["aws"]
        ) from None
    return AwsProvider(section, clock=clock)


def _vault(environ: Environ, clock: Clock) -> VaultProvider | None:
    url = environ.get("VAULT_ADDR") or environ.get("VAULT_URL")
    auth: dict[str, str] = {}
    token = environ.get("VAULT_TOKEN", "")
    if environ.get("VAULT_TOKEN_FILE"):
        auth = {"token_file": environ["VAULT_TOKEN_FILE"]}
    elif environ.get("VAULT_ROLE"):
        auth = {"method": "kubernetes", "role": environ["VAULT_ROLE"]}
    elif token:
        auth = {"token_file": _GIVEN}
    if not url or not auth:
        return None
    from agent.configbackends import Vault
    from agent.secrets.providers.vault.methods.token import GivenToken
    from agent.secrets.providers.vault.provider import VaultProvider

    tree = {
        "url": url,
        "namespace": environ.get("VAULT_NAMESPACE") or None,
        "auth": auth,
        "tls": {"ca_file": environ.get("VAULT_CACERT") or None},
    }
    try:
        section = Vault.model_validate(tree)
    except ValueError:
        raise UnavailableError(
            "Vault's variables hold no address or no path", _HOW["vault"]
        ) from None
    given = None
    if auth.get("token_file") == _GIVEN:
        _log.warning(
            "Vault's token is in the environment, where every child process and every crash report"
            " sees it; put it into a file and set VAULT_TOKEN_FILE"
        )
        given = GivenToken(token)
    return VaultProvider(section, clock=clock, method=given)


def _names_local(environ: Environ) -> bool:
    names = ("SECRETS_STORAGE_PATH", "SECRETS_KEY_FILE", "SECRETS_MASTER_PASSWORD")
    return any(environ.get(name) for name in names)


def _local(environ: Environ) -> LocalStore:
    """`SECRETS_STORAGE_PATH` names the folder (default ./secrets), `SECRETS_KEY_FILE` the key.
    Without one, `SECRETS_MASTER_PASSWORD` is used, with a warning; without that, a key file is made
    beside the store, with a warning."""
    folder = Path(environ.get("SECRETS_STORAGE_PATH") or "./secrets").absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = folder / "secrets.enc"
    if environ.get("SECRETS_KEY_FILE"):
        return LocalStore(store, key_file=Path(environ["SECRETS_KEY_FILE"]))
    if environ.get("SECRETS_MASTER_PASSWORD"):
        _log.warning(
            "the store's passphrase is in the environment, where every child process and every"
            " crash report sees it; put a key into a file and set SECRETS_KEY_FILE"
        )
        return LocalStore(store, passphrase=environ["SECRETS_MASTER_PASSWORD"].encode())
    key = folder / "secrets.key"
    if not key.exists():
        _log.warning("a key was made beside the store; keep it elsewhere", key_file=str(key))
        try:
            new_key_file(key)
        except SecretsError:
            if not key.exists():  # else another process has just made it
                raise
    return LocalStore(store, key_file=key)
