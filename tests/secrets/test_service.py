"""From provider to files: what is required, what is kept, what is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.audit import AuditError, AuditLog, verify
from agent.configsecrets import SecretItem, Secrets
from agent.errors import AgentError
from agent.secrets.errors import NotFoundError, ShapeError, StoreError, UnavailableError
from agent.secrets.providers.local import LocalStore
from agent.secrets.service import SecretsService
from agent.telemetry.metrics import NullRecorder
from agent.telemetry.redaction import MASK, Redactor
from agent.units import SecretName
from tests.faults.clock import FakeClock
from tests.secrets.conftest import FakeProvider
from tests.secrets.test_generation import shown

DOWN = UnavailableError("down", "wait")
Make = Callable[..., Secrets]


def wants(name: str, **more: object) -> SecretItem:
    return SecretItem.model_validate({"name": name, **more})


def service_of(
    config: Secrets,
    provider: FakeProvider | LocalStore,
    clock: FakeClock | None = None,
    audit: AuditLog | None = None,
) -> SecretsService:
    clock = clock or FakeClock()
    return SecretsService(
        config,
        environment="development",
        audit=audit,
        recorder=NullRecorder(),
        clock=clock,
        redactor=Redactor(),
        providers=[provider],
        sleep=clock.tick,
        roll=lambda: 1.0,
    )


def test_every_declared_secret_becomes_a_file_in_its_format(
    config: Make, store: LocalStore, memory: Path
) -> None:
    store.write(SecretName("db"), b'{"password": "p"}')
    store.write(SecretName("key"), b'"text \\u00fc"')
    store.write(SecretName("blob"), b"\x00\xff", kind="bytes")
    made = service_of(
        config(wants("db"), wants("key", format="raw"), wants("blob", format="raw", path="b/blob")),
        store,
    )
    assert made.publish().files == 3
    assert shown(memory) == {
        "db.json": b'{"password": "p"}',
        "key": "text ü".encode(),
        "b/blob": b"\x00\xff",
    }


def test_one_secret_in_two_formats_is_read_once(config: Make, provider: FakeProvider) -> None:
    provider.values["a"] = b'"x"'
    service_of(config(wants("a"), wants("a", format="raw")), provider).publish()
    assert provider.calls == ["a"]


def test_bytes_that_are_not_json_are_refused_where_json_is_asked_for_and_not_shown(
    config: Make, provider: FakeProvider
) -> None:
    provider.values["a"] = b"{topsecret"
    with pytest.raises(ShapeError) as caught:
        service_of(config(wants("a")), provider).publish()
    assert "topsecret" not in caught.value.told()


def test_without_a_required_secret_nothing_is_flipped_and_each_reason_is_kept(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    provider.values |= {"a": b"1", "b": b"2", "c": b"3"}
    made = service_of(config(*(wants(n, format="raw") for n in "abc")), provider)
    made.publish()
    provider.values |= {"b": NotFoundError("gone"), "c": StoreError("damaged"), "a": b"new"}
    with pytest.raises(NotFoundError, match=r"required secret b: gone"):
        made.publish(refresh=True)
    assert shown(memory) == {"a": b"1", "b": b"2", "c": b"3"}
    assert set(made.errors) == {"b"}  # c is served from memory


def test_an_optional_secret_that_does_not_exist_holds_nobody_up(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    provider.values["a"] = b"1"
    made = service_of(
        config(wants("a", format="raw"), wants("b", format="raw", required=False)), provider
    )
    made.publish()
    assert shown(memory) == {"a": b"1"}
    provider.values["b"] = b"2"
    made.publish(refresh=True)
    assert shown(memory) == {"a": b"1", "b": b"2"}
    del provider.values["b"]
    made.publish(refresh=True)
    assert shown(memory) == {"a": b"1"}


def test_a_provider_that_is_down_takes_no_optional_file_away_even_from_a_new_process(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    provider.values |= {"a": b"1", "b": b"2"}
    section = config(wants("a", format="raw"), wants("b", format="raw", required=False))
    service_of(section, provider).publish()
    provider.values |= {"a": b"new", "b": DOWN}
    assert service_of(section, provider).publish().changed
    assert shown(memory) == {"a": b"new", "b": b"2"}


def test_init_waits_for_a_provider_until_its_deadline_and_then_says_why(
    config: Make, provider: FakeProvider
) -> None:
    clock = FakeClock()
    provider.values["a"] = DOWN
    began = clock.monotonic()
    with pytest.raises(UnavailableError, match="required secret a: down"):
        service_of(config(wants("a"), init_deadline=30.0), provider, clock).publish_once()
    assert clock.monotonic() - began == pytest.approx(30.0)
    assert 5 < len(provider.calls) < 30


def test_init_goes_on_the_moment_the_provider_is_back(config: Make, provider: FakeProvider) -> None:
    clock = FakeClock()
    provider.values["a"] = DOWN

    def back_at_the_fourth() -> None:
        if len(provider.calls) == 4:
            provider.values["a"] = b"{}"

    provider.before = back_at_the_fourth
    assert service_of(config(wants("a")), provider, clock).publish_once().files == 1
    assert len(provider.calls) == 4


def test_init_does_not_wait_for_what_waiting_cannot_mend(
    config: Make, provider: FakeProvider
) -> None:
    clock = FakeClock()
    for error in (NotFoundError("none"), StoreError("damaged")):
        provider.values["a"] = error
        with pytest.raises(type(error)):
            service_of(config(wants("a")), provider, clock).publish_once()
    assert clock.monotonic() == FakeClock().monotonic()


def test_each_real_read_is_recorded_once_and_a_read_from_memory_not_at_all(
    config: Make, provider: FakeProvider, tmp_path: Path
) -> None:
    audit = AuditLog(tmp_path)
    provider.values["a"] = b'"topsecret"'
    made = service_of(config(wants("a")), provider, audit=audit)
    for _ in range(5):
        made.publish()
        made.get("a")
    with pytest.raises(NotFoundError):
        made.get("none")
    audit.close()
    lines = [json.loads(line) for line in audit.path.read_text().splitlines()]
    assert [(line["action"], line["subject"], line["outcome"]) for line in lines] == [
        ("secret.read", "a", "ok"),
        ("secret.publish", str(made.config.directory), "ok"),
        ("secret.read", "none", "not_found"),
    ]
    assert verify(tmp_path) == 3
    assert "topsecret" not in audit.path.read_text()


def test_without_a_record_no_secret_is_handed_out(
    config: Make, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = AuditLog(tmp_path)

    def full(*_: object) -> None:
        raise AuditError("no space")

    monkeypatch.setattr(audit, "append_many", full)
    provider.values["a"] = b"1"
    made = service_of(config(wants("a")), provider, audit=audit)
    with pytest.raises(AuditError):
        made.get("a")
    with pytest.raises(AgentError, match="no space"):
        made.publish()
    audit.close()


def test_the_agents_own_credential_is_read_though_no_record_can_be_kept(
    config: Make, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a full disk would keep the page about it from going out."""
    audit = AuditLog(tmp_path)

    def full(*_: object) -> None:
        raise AuditError("no space")

    monkeypatch.setattr(audit, "append_many", full)
    provider.values["pager"] = b"1"
    made = service_of(config(wants("pager")), provider, audit=audit)
    with pytest.raises(AuditError):
        made.get("pager")
    assert made.own("pager") == b"1"
    with pytest.raises(NotFoundError):  # what is wrong with the secret itself is still said
        made.own("none")
    with pytest.raises(AuditError):  # the exception is of that one call, not of those after it
        made.get("other")
    audit.close()


def test_a_value_is_known_to_the_redactor_before_anyone_has_it(
    config: Make, provider: FakeProvider
) -> None:
    provider.values["a"] = b'{"password": "correct-horse"}'
    redactor = Redactor()
    made = service_of(config(wants("a")), provider)
    made._redactor = redactor
    made.get("a")
    assert redactor.scrub("it is correct-horse") == f"it is {MASK}"
