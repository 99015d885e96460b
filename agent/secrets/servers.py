"""What the command line does with Vault and AWS: one provider, one call, recorded as any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.clock import SystemClock
from agent.configsecrets import Secrets
from agent.errors import UsageError
from agent.secrets import rotation
from agent.secrets.model import Fetched, Kind, SecretType, secret_name
from agent.secrets.providers.deadline import Deadline
from agent.secrets.rotation import Wish
from agent.secrets.service import local_store
from agent.secrets.verbs import recorded
from agent.units import Seconds, SecretName

if TYPE_CHECKING:
    from agent.secrets.providers.aws.provider import AwsProvider
    from agent.secrets.providers.vault.provider import VaultProvider

_WITHIN = Seconds(10.0)


@contextmanager
def vault(config: Secrets) -> Iterator[VaultProvider]:
    """Vault as configured, closed afterwards. Raises UsageError where it is not."""
    if config.vault is None:
        raise UsageError("vault is not configured", "add secrets.vault")
    from agent.secrets.providers.vault.provider import VaultProvider

    made = VaultProvider(config.vault, clock=SystemClock())
    try:
        yield made
    finally:
        made.close()


@contextmanager
def aws(config: Secrets) -> Iterator[AwsProvider]:
    """AWS as configured, closed afterwards. Raises UsageError where it is not."""
    if config.aws is None:
        raise UsageError("aws is not configured", "add secrets.aws")
    from agent.secrets.providers.aws.provider import AwsProvider

    made = AwsProvider(config.aws, clock=SystemClock())
    try:
        yield made
    finally:
        made.close()


def get(
    config: Secrets, provider: str, name: str, version: str | None, *, state: Path | None
) -> Fetched:
    """One secret of one server, at a version if one is named. Raises AgentError."""
    checked = secret_name(name)
    with recorded(state, "secret.read", checked, provider) as detail:
        if provider == "aws":
            with aws(config) as cloud:
                fetched = cloud.read_version(checked, version, Deadline(_WITHIN))
        else:
            if version is not None and not version.isdecimal():
                raise UsageError("not a version of Vault's KV", "name a whole number")
            number = int(version) if version is not None else None
            with vault(config) as it:
                _not_leased(config, checked)
                fetched = it.read_version(checked, number, Deadline(_WITHIN))
        detail["version"] = fetched.version
    return fetched


def put(
    config: Secrets,
    provider: str,
    name: str,
    value: bytes,
    *,
    kind: Kind = "json",
    secret_type: SecretType = SecretType.API_KEY,
    description: str = "",
    cas: int | None = None,
    state: Path | None = None,
) -> str:
    """Store a new version at one server; returns it.

    Raises:
        UsageError: `cas` for a provider without check-and-set.
        AgentError: nothing was written.
    """
    checked = secret_name(name)
    with recorded(state, "secret.write", checked, provider) as detail:
        if provider == "aws":
            if cas is not None:
                raise UsageError("AWS has no check-and-set", "leave out --cas")
            with aws(config) as cloud:
                version = cloud.write(
                    checked, value, kind=kind, secret_type=secret_type, description=description
                )
        else:
            with vault(config) as it:
                _not_leased(config, checked)
                version = it.write(
                    checked,
                    value,
                    kind=kind,
                    secret_type=secret_type,
                    description=description,
                    cas=cas,
                )
        detail["version"] = version
    return version


def rotate(
    config: Secrets,
    provider: str,
    name: str,
    wish: Wish,
    *,
    generate: bool = False,
    root: str | None = None,
    state: Path | None = None,
) -> str:
    """Rotate one secret; returns its new version, empty where the provider tells none.

    Args:
        generate: with AWS, make the value here instead of by the secret's rotation function.
        root: a connection whose own password Vault's database engine is to change.

    Raises:
        AgentError: nothing was changed, or that is not known and said.
    """
    checked = secret_name(name)
    if root is not None and provider != "vault":
        raise UsageError("--root is Vault's", "add --provider vault")
    with recorded(state, "secret.rotate", checked, provider) as detail:
        if provider == "aws":
            version = _rotated_in_aws(config, checked, wish, generate=generate)
        elif provider == "vault":
            version = _rotated_in_vault(config, checked, wish, root=root)
        else:
            store = local_store(config, SystemClock(), state)
            version = rotation.rotate_local(store, checked, wish)
        detail["version"] = version
    return version


def _rotated_in_aws(config: Secrets, name: SecretName, wish: Wish, *, generate: bool) -> str:
    with aws(config) as cloud:
        if not generate:
            return cloud.rotate(name)
        fetched = cloud.read_version(name, None, Deadline(_WITHIN))
        data, kind = rotation.renewed(fetched, wish)
        return cloud.write(name, data, kind=kind, secret_type=fetched.secret_type)


def _rotated_in_vault(config: Secrets, name: SecretName, wish: Wish, *, root: str | None) -> str:
    with vault(config) as it:
        if root is None:
            return rotation.rotate_vault(it, config, name, wish)
        rotation.rotate_root(it, config, name, root)
        return ""


def _not_leased(config: Secrets, name: SecretName) -> None:
    if config.vault is not None and name in config.vault.leased:
        raise UsageError(f"{name} is issued by an engine", "read the file that the agent publishes")
