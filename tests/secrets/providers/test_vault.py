"""Against a real OpenBao: every login, both KV engines, versions, following, leases, wrapping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.secrets.errors import DeniedError, NotFoundError, SecretsError, UnavailableError
from agent.secrets.model import Fetched
from agent.secrets.providers.vault.client import RefusedError
from agent.units import SecretName
from tests.faults.clock import FakeClock
from tests.faults.proxy import FaultServer, response, says
from tests.secrets.providers.conftest import MakeVault, soon
from tests.secrets.providers.tokens import Authority, Signer
from tests.servers import ROOT_TOKEN, Bao, Postgres

POLICY = 'path "secret/*" { capabilities = ["read"] }'


def n(text: str) -> SecretName:
    return SecretName(text)


def value(fetched: Fetched | SecretsError) -> Any:
    assert isinstance(fetched, Fetched), fetched
    return json.loads(fetched.value.reveal())


@pytest.fixture(scope="module")
def policy(bao: Bao) -> str:
    bao.api("POST", "sys/policies/acl/reader", {"policy": POLICY})
    return "reader"


def test_a_secret_is_read_whole_with_its_version_and_time(bao: Bao, vault: MakeVault) -> None:
    bao.put("database/main", {"username": "desk", "password": "ü-péché-💶", "port": 5432})
    latest = bao.put("database/main", {"username": "desk", "password": "second", "port": 5432})
    fetched = vault(bao.url).read(n("database/main"), soon())
    assert value(fetched) == {"username": "desk", "password": "second", "port": 5432}
    assert (fetched.version, fetched.provider) == (str(latest), "vault")
    assert fetched.created_at is not None
    assert fetched.created_at > 1_700_000_000


def test_a_pinned_name_stays_at_its_version(bao: Bao, vault: MakeVault) -> None:
    first = bao.put("pinned", {"a": "1"})
    bao.put("pinned", {"a": "2"})
    assert value(vault(bao.url, pins={"pinned": first}).read(n("pinned"), soon())) == {"a": "1"}


def test_missing_and_deleted_secrets_are_not_found(bao: Bao, vault: MakeVault) -> None:
    provider = vault(bao.url)
    with pytest.raises(NotFoundError):
        provider.read(n("never/written"), soon())
    bao.put("deleted", {"a": "1"})
    bao.api("DELETE", "secret/data/deleted")
    with pytest.raises(NotFoundError):
        provider.read(n("deleted"), soon())


def test_a_prefix_and_kv_version_one_are_read_without_asking_what_is_mounted(
    bao: Bao, vault: MakeVault
) -> None:
    bao.api("POST", "sys/mounts/old", {"type": "kv", "options": {"version": "1"}})
    bao.api("POST", "old/desk/api", {"key": "one"})
    provider = vault(bao.url, mount="old", kv=1, prefix="desk/")
    assert value(provider.read(n("api"), soon())) == {"key": "one"}


def test_a_namespace_keeps_equal_names_apart(bao: Bao, vault: MakeVault) -> None:
    bao.api("POST", "sys/namespaces/trading")
    bao.api(
        "POST",
        "sys/mounts/secret",
        {"type": "kv", "options": {"version": "2"}},
        namespace="trading",
    )
    bao.put("where", {"at": "root"})
    bao.api("POST", "secret/data/where", {"data": {"at": "trading"}}, namespace="trading")
    assert value(vault(bao.url).read(n("where"), soon())) == {"at": "root"}
    inside = vault(bao.url, namespace="trading")
    assert value(inside.read(n("where"), soon())) == {"at": "trading"}


def test_many_names_come_at_once_each_with_its_own_answer(bao: Bao, vault: MakeVault) -> None:
    names = [n(f"many/{at}") for at in range(50)]
    for at, name in enumerate(names):
        bao.put(name, {"at": at})
    answers = vault(bao.url).read_many([*names, n("many/absent")], soon())
    assert [value(answers[name])["at"] for name in names] == list(range(50))
    assert isinstance(answers[n("many/absent")], NotFoundError)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"a": [1, "x"]}', "json"),
        (b'"one text"', "json"),
        (bytes(range(256)), "bytes"),
    ],
)
def test_what_is_written_is_read_back(bao: Bao, vault: MakeVault, data: bytes, kind: Any) -> None:
    provider = vault(bao.url)
    provider.write(n(f"round/{kind}"), data, kind=kind, description="told")
    fetched = provider.read(n(f"round/{kind}"), soon())
    assert (fetched.value.reveal(), fetched.kind, fetched.description) == (data, kind, "told")


def test_a_write_with_check_and_set_loses_to_one_that_came_between(
    bao: Bao, vault: MakeVault
) -> None:
    provider = vault(bao.url)
    assert provider.write(n("cas"), b'{"v": 1}', cas=0) == "1"
    bao.put("cas", {"v": "somebody else"})
    with pytest.raises(RefusedError):
        provider.write(n("cas"), b'{"v": 2}', cas=1)
    assert value(provider.read(n("cas"), soon())) == {"v": "somebody else"}


def test_the_marker_moves_with_the_sentinel_and_with_nothing_else(
    bao: Bao, vault: MakeVault
) -> None:
    provider = vault(bao.url, sentinel="epoch")
    absent = provider.marker(soon())
    bao.put("epoch", {"n": 1})
    one = provider.marker(soon())
    bao.put("other", {"n": 1})
    assert provider.marker(soon()) == one != absent
    bao.put("epoch", {"n": 2})
    assert provider.marker(soon()) != one


def test_a_token_without_the_policy_is_denied_and_told_without_a_storm_of_logins(
    bao: Bao, vault: MakeVault, tmp_path: Path
) -> None:
    made = bao.api("POST", "auth/token/create", {"policies": ["default"], "ttl": "1h"})
    path = tmp_path / "weak"
    path.write_text(made["auth"]["client_token"])
    provider = vault(bao.url, auth={"token_file": str(path)})
    for _ in range(5):
        with pytest.raises(DeniedError):
            provider.read(n("database/main"), soon())
    assert provider.session.logins == 1


def approle(bao: Bao, policy: str, **role: object) -> dict[str, Any]:
    if "approle/" not in bao.api("GET", "sys/auth"):
        bao.api("POST", "sys/auth/approle", {"type": "approle"})
    bao.api("POST", "auth/approle/role/desk", {"token_policies": [policy], **role})
    role_id = bao.api("GET", "auth/approle/role/desk/role-id")["data"]["role_id"]
    return {"method": "approle", "role_id": role_id}


def test_approle_logs_in_and_renews_ahead_of_expiry_and_logs_in_again_at_max_ttl(
    bao: Bao, vault: MakeVault, policy: str, tmp_path: Path
) -> None:
    auth = approle(bao, policy, token_ttl="60s", token_max_ttl="10m")
    secret_id = bao.api("POST", "auth/approle/role/desk/secret-id")["data"]["secret_id"]
    path = tmp_path / "secret-id"
    path.write_text(secret_id)
    clock = FakeClock()
    bao.put("role", {"a": "1"})
    provider = vault(bao.url, auth={**auth, "secret_id_file": str(path)}, clock=clock)
    provider.read(n("role"), soon())
    assert (provider.session.logins, provider.session.renewals) == (1, 0)
    clock.tick(30.0)
    provider.read(n("role"), soon())
    assert (provider.session.logins, provider.session.renewals) == (1, 0)
    clock.tick(15.0)
    provider.read(n("role"), soon())
    assert (provider.session.logins, provider.session.renewals) == (1, 1)
    bao.api("POST", "auth/approle/role/desk", {"token_max_ttl": "1s", "token_ttl": "1s"})
    clock.tick(45.0)  # a renewal no longer brings much
    provider.read(n("role"), soon())
    assert provider.session.logins == 2


def test_a_revoked_token_is_replaced_by_one_login_within_the_same_read(
    bao: Bao, vault: MakeVault, policy: str
) -> None:
    auth = approle(bao, policy, bind_secret_id=False, token_bound_cidrs=["127.0.0.1/32"])
    clock = FakeClock()
    bao.put("revoked", {"a": "1"})
    provider = vault(bao.url, auth=auth, clock=clock)
    token = provider.session.token(soon())
    bao.api("POST", "auth/token/revoke", {"token": token})
    clock.tick(31.0)
    assert value(provider.read(n("revoked"), soon())) == {"a": "1"}
    assert provider.session.logins == 2


def test_a_wrong_credential_is_denied_and_named_nowhere(
    bao: Bao, vault: MakeVault, policy: str, tmp_path: Path
) -> None:
    auth = approle(bao, policy, bind_secret_id=True, token_bound_cidrs=[])
    path = tmp_path / "secret-id"
    path.write_text("canary-wrong-secret-id")
    provider = vault(bao.url, auth={**auth, "secret_id_file": str(path)})
    with pytest.raises(DeniedError) as caught:
        provider.read(n("role"), soon())
    assert "canary" not in caught.value.told() + repr(caught.value.__cause__)


def test_a_wrapped_secret_id_is_unwrapped_once_and_kept(
    bao: Bao, vault: MakeVault, policy: str, tmp_path: Path
) -> None:
    auth = approle(bao, policy, bind_secret_id=True, token_bound_cidrs=[])
    wrapped = bao.api(
        "POST", "auth/approle/role/desk/secret-id", headers={"X-Vault-Wrap-TTL": "60s"}
    )["wrap_info"]["token"]
    path = tmp_path / "wrapped"
    path.write_text(wrapped)
    bao.put("wrapped", {"a": "1"})
    options = {**auth, "secret_id_file": str(path), "wrapped": True}
    clock = FakeClock()
    provider = vault(bao.url, auth=options, clock=clock)
    provider.read(n("wrapped"), soon())
    clock.tick(31.0)
    bao.api("POST", "auth/token/revoke", {"token": provider.session.token(soon())})
    provider.read(n("wrapped"), soon())
    assert provider.session.logins == 2
    with pytest.raises(DeniedError, match="unwrap"):
        vault(bao.url, auth=options).read(n("wrapped"), soon())


def test_a_wrapped_token_is_unwrapped(bao: Bao, vault: MakeVault, tmp_path: Path) -> None:
    made = bao.api("POST", "auth/token/create", {}, headers={"X-Vault-Wrap-TTL": "60s"})
    path = tmp_path / "wrapped"
    path.write_text(made["wrap_info"]["token"])
    bao.put("by-wrapped", {"a": "1"})
    provider = vault(bao.url, auth={"token_file": str(path), "wrapped": True})
    assert value(provider.read(n("by-wrapped"), soon())) == {"a": "1"}


def test_a_new_token_in_the_file_is_used_at_once(
    bao: Bao, vault: MakeVault, tmp_path: Path
) -> None:
    path = tmp_path / "moving"
    path.write_text("s.wrong")
    bao.put("moving", {"a": "1"})
    provider = vault(bao.url, auth={"token_file": str(path)})
    with pytest.raises(DeniedError):
        provider.read(n("moving"), soon())
    path.write_text(ROOT_TOKEN)
    assert value(provider.read(n("moving"), soon())) == {"a": "1"}


def test_a_token_file_that_is_missing_is_waited_for(
    bao: Bao, vault: MakeVault, tmp_path: Path
) -> None:
    bao.put("late", {"a": "1"})
    provider = vault(bao.url, auth={"token_file": str(tmp_path / "late")})
    with pytest.raises(UnavailableError):
        provider.read(n("late"), soon())
    (tmp_path / "late").write_text(ROOT_TOKEN)
    assert value(provider.read(n("late"), soon())) == {"a": "1"}


def test_a_jwt_logs_in_by_its_signature(
    bao: Bao, vault: MakeVault, policy: str, tmp_path: Path
) -> None:
    signer = Signer()
    bao.api("POST", "sys/auth/jwt", {"type": "jwt"})
    bao.api("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [signer.public]})
    role = {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": ["vault"],
        "token_policies": [policy],
    }
    bao.api("POST", "auth/jwt/role/desk", role)
    bao.put("jwt", {"a": "1"})
    path = tmp_path / "jwt"
    path.write_text(signer.token(sub="trader", aud="vault"))
    auth = {"method": "jwt", "role": "desk", "jwt_file": str(path)}
    assert value(vault(bao.url, auth=auth).read(n("jwt"), soon())) == {"a": "1"}
    path.write_text(Signer().token(sub="trader", aud="vault"))  # another's signature
    with pytest.raises(DeniedError):
        vault(bao.url, auth=auth).read(n("jwt"), soon())


def test_a_service_account_logs_in_through_the_cluster_that_reviews_it(
    bao: Bao, vault: MakeVault, policy: str, tmp_path: Path
) -> None:
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "status": {
            "authenticated": True,
            "audiences": ["vault"],
            "user": {
                "username": "system:serviceaccount:trading:trader",
                "uid": "u",
                "groups": ["system:serviceaccounts"],
            },
        },
    }
    kind = "Content-Type: application/json\r\n"
    answer = response(json.dumps(review).encode(), "201 Created", kind)
    token = Signer().token(
        sub="system:serviceaccount:trading:trader",
        aud=["vault"],
        **{
            "kubernetes.io": {
                "namespace": "trading",
                "serviceaccount": {"name": "trader", "uid": "u"},
            }
        },
    )
    path = tmp_path / "sa-token"
    path.write_text(token)
    with FaultServer(says(answer)) as cluster:
        bao.api("POST", "sys/auth/kubernetes", {"type": "kubernetes"})
        authority = Authority(tmp_path / "ca").pem
        settings = {
            "kubernetes_host": cluster.url,
            "disable_local_ca_jwt": True,
            "kubernetes_ca_cert": authority,
        }
        bao.api("POST", "auth/kubernetes/config", settings)
        role = {
            "bound_service_account_names": "trader",
            "bound_service_account_namespaces": "trading",
            "token_policies": [policy],
        }
        bao.api("POST", "auth/kubernetes/role/desk", role)
        bao.put("k8s", {"a": "1"})
        auth = {"method": "kubernetes", "role": "desk", "jwt_file": str(path)}
        assert value(vault(bao.url, auth=auth).read(n("k8s"), soon())) == {"a": "1"}
        assert cluster.hits == 1


def test_a_path_that_issues_no_lease_is_not_passed_off_for_one(bao: Bao, vault: MakeVault) -> None:
    bao.put("plain", {"a": "1"})
    provider = vault(bao.url, leased={"plain": "secret/data/plain"})
    with pytest.raises(UnavailableError):
        provider.read(n("plain"), soon())


def test_a_database_credential_is_held_renewed_and_replaced_before_it_ends(
    bao: Bao, vault: MakeVault, postgres: Postgres
) -> None:
    bao.api("POST", "sys/mounts/database", {"type": "database"})
    connection = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": "*",
        "connection_url": f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres",
    }
    bao.api("POST", "database/config/desk", connection)
    create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
    role = {"db_name": "desk", "creation_statements": [create], "default_ttl": "60s"}
    bao.api("POST", "database/roles/trader", {**role, "max_ttl": "90s"})
    clock = FakeClock()
    provider = vault(bao.url, leased={"database/main": "database/creds/trader"}, clock=clock)
    first = provider.read(n("database/main"), soon())
    user = value(first)["username"]
    assert postgres.can_log_in(user, value(first)["password"])
    mark = provider.marker(soon())
    clock.tick(30.0)
    assert provider.read(n("database/main"), soon()).version == first.version
    clock.tick(15.0)  # past two thirds: renewed, and the credential stays
    assert provider.marker(soon()) == mark
    clock.tick(30.0)
    assert provider.read(n("database/main"), soon()).version == first.version
    bao.api("POST", "database/roles/trader", {**role, "max_ttl": "1s", "default_ttl": "1s"})
    clock.tick(15.0)  # a renewal brings little now: max TTL
    assert provider.marker(soon()) != mark
    bao.api("POST", "database/roles/trader", {**role, "max_ttl": "90s"})
    second = provider.read(n("database/main"), soon())
    assert second.version != first.version
    assert value(second)["username"] != user
    assert postgres.can_log_in(value(second)["username"], value(second)["password"])
