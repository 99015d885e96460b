"""Whole sets: owners, sizes, the value before, what stands from a run before, and wiping."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.audit import AuditLog
from agent.configsecrets import SecretItem, Secrets
from agent.secrets import confirmed
from agent.secrets.errors import NotFoundError, PublishError, UnavailableError
from agent.secrets.providers.local import LocalStore
from agent.secrets.service import SecretsService
from agent.telemetry.metrics import NullRecorder
from agent.telemetry.redaction import Redactor
from agent.units import SecretName
from tests.faults.clock import FakeClock
from tests.secrets.conftest import FakeProvider
from tests.secrets.test_generation import shown
from tests.secrets.test_service import service_of, wants

Make = Callable[..., Secrets]
DOWN = UnavailableError("down", "wait")


def looks(path: Path) -> tuple[int, int, int]:
    seen = path.stat()
    return stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid


def test_each_file_has_its_own_mode_and_the_rest_that_of_the_set(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    provider.values = {"a": b"1", "b": b'{"x": "1"}'}
    made = service_of(
        config(wants("a", format="raw", mode="0440"), wants("b", format="fields", mode="0640")),
        provider,
    )
    made.publish()
    assert looks(memory / "a")[0] == 0o440
    assert looks(memory / "b" / "x")[0] == 0o640
    assert looks(memory / "b")[0] == 0o700
    assert looks(memory / "..data" / ".index.json")[0] == 0o400
    os.chmod(memory / "..data" / "a", 0o666)
    result = made.publish()
    assert result.repaired == ("mode",)
    assert looks(memory / "a")[0] == 0o440


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners_and_groups_of_the_set_and_of_single_files(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    provider.values = {"a": b"1", "b": b"2"}
    made = service_of(
        config(
            wants("a", format="raw"),
            wants("b", format="raw", owner="4711", group="4712"),
            owner="1234",
            group="1235",
        ),
        provider,
    )
    made.publish()
    assert looks(memory / "a") == (0o400, 1234, 1235)
    assert looks(memory / "b") == (0o400, 4711, 4712)
    assert looks(memory) == looks(memory / "..data") == (0o700, 1234, 1235)
    assert not made.publish().changed
    os.chown(memory / "..data" / "b", 1, 1)
    assert made.publish().repaired == ("owner",)


def test_an_account_that_the_machine_does_not_know_is_named(
    config: Make, provider: FakeProvider
) -> None:
    with pytest.raises(PublishError, match="no group nobody-knows"):
        service_of(config(wants("a"), group="nobody-knows"), provider)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a directory of another's")
def test_a_directory_of_a_stranger_is_refused(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    memory.mkdir()
    os.chown(memory, 4711, 4711)
    provider.values["a"] = b"1"
    with pytest.raises(PublishError, match="belongs to uid 4711"):
        service_of(config(wants("a")), provider).publish()
    assert list(memory.iterdir()) == []


def test_a_set_larger_than_allowed_leaves_what_is_published(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    provider.values = {"a": b"1", "big": b"2"}
    items = (wants("a", format="raw"), wants("big", format="raw"))
    made = service_of(config(*items, max_size=100), provider)
    made.publish()
    provider.values["big"] = b"x" * 200
    with pytest.raises(PublishError, match="largest is big with 200"):
        made.publish(refresh=True)
    assert shown(memory) == {"a": b"1", "big": b"2"}


def test_a_field_that_is_gone_takes_its_file_along_and_a_failure_keeps_all(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    provider.values = {"db": b'{"u": "1", "p": "2"}', "a": b"1"}
    items = (wants("db", format="fields", required=False), wants("a", format="raw"))
    made = service_of(config(*items), provider)
    made.publish()
    provider.values |= {"db": DOWN, "a": b"2"}
    made.cache.clear()
    made.publish(refresh=True)
    assert shown(memory) == {"db/u": b"1", "db/p": b"2", "a": b"2"}
    provider.values["db"] = b'{"u": "3"}'
    made.publish(refresh=True)
    assert shown(memory) == {"db/u": b"3", "a": b"2"}
    provider.values["db"] = NotFoundError("gone")
    made.publish(refresh=True)
    assert shown(memory) == {"a": b"2"}


# -- the value before -----------------------------------------------------------------------------


def rotating(
    config: Make,
    store: LocalStore,
    clock: FakeClock,
    *items: SecretItem,
    audit: AuditLog | None = None,
    **more: object,
) -> SecretsService:
    made = items or (wants("a", overlap="60s"), wants("b"))
    return SecretsService(
        config(*made, **more),
        environment="development",
        audit=audit,
        recorder=NullRecorder(),
        clock=clock,
        redactor=Redactor(),
        providers=[store],
        sleep=clock.tick,
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def timed(tmp_path: Path, key_file: Path, clock: FakeClock) -> LocalStore:
    store = LocalStore(tmp_path / "secrets.enc", key_file=key_file, clock=clock)
    store.write(SecretName("a"), b'"1"')
    store.write(SecretName("b"), b'"1"')
    return store


def test_the_value_before_is_readable_until_the_overlap_ends(
    config: Make, timed: LocalStore, clock: FakeClock, memory: Path
) -> None:
    made = rotating(config, timed, clock)
    made.publish()
    assert sorted(shown(memory)) == ["a.json", "b.json"]
    for name in ("a", "b"):
        timed.write(SecretName(name), b'"2"')
    made.publish(refresh=True)
    both = {"a.json": b'"2"', "a.json.previous": b'"1"', "b.json": b'"2"'}
    assert shown(memory) == both
    assert looks(memory / "a.json.previous") == looks(memory / "a.json")
    clock.tick(59)
    assert not made.publish().changed
    again = rotating(config, timed, clock)  # an agent that starts in between knows it too
    assert not again.publish().changed
    clock.tick(2)
    assert again.publish().changed
    assert shown(memory) == {"a.json": b'"2"', "b.json": b'"2"'}


def test_a_pod_that_starts_during_the_overlap_has_the_value_before_from_the_store(
    config: Make, timed: LocalStore, clock: FakeClock, memory: Path
) -> None:
    timed.write(SecretName("a"), b'"2"')
    clock.tick(30)
    rotating(config, timed, clock).publish()
    assert shown(memory)["a.json.previous"] == b'"1"'
    clock.tick(31)
    rotating(config, timed, clock).publish()
    assert sorted(shown(memory)) == ["a.json", "b.json"]


def test_of_two_rotations_in_a_row_the_newer_predecessor_is_kept(
    config: Make, timed: LocalStore, clock: FakeClock, memory: Path
) -> None:
    made = rotating(config, timed, clock)
    for value in (b'"1"', b'"2"', b'"3"'):
        timed.write(SecretName("a"), value)
        made.publish(refresh=True)
        clock.tick(1)
    assert shown(memory)["a.json.previous"] == b'"2"'


def test_what_somebody_else_wrote_into_a_file_never_becomes_the_value_before(
    config: Make, timed: LocalStore, clock: FakeClock, memory: Path
) -> None:
    made = rotating(config, timed, clock)
    made.publish()
    os.chmod(memory / "..data" / "a.json", 0o600)
    (memory / "..data" / "a.json").write_bytes(b'"evil"')
    timed.write(SecretName("a"), b'"2"')
    made.publish(refresh=True)
    assert shown(memory).get("a.json.previous") in (None, b'"1"')


def test_another_form_of_the_same_version_is_no_rotation(
    config: Make, timed: LocalStore, clock: FakeClock, memory: Path
) -> None:
    rotating(config, timed, clock, wants("a", path="x", overlap="60s")).publish()
    rotating(config, timed, clock, wants("a", path="x", format="raw", overlap="60s")).publish()
    assert shown(memory) == {"x": b"1"}


def test_each_field_has_its_own_predecessor(
    config: Make, timed: LocalStore, clock: FakeClock, memory: Path
) -> None:
    timed.write(SecretName("a"), b'{"u": "me", "p": "1"}')
    made = rotating(config, timed, clock, wants("a", format="fields"), overlap="60s")
    made.publish()
    timed.write(SecretName("a"), b'{"u": "me", "p": "2"}')
    made.publish(refresh=True)
    assert shown(memory) == {"a/u": b"me", "a/p": b"2", "a/p.previous": b"1"}


def test_two_items_must_not_meet_in_a_predecessors_name(config: Make) -> None:
    with pytest.raises(ValueError, match=r"x\.previous"):
        config(wants("a", path="x", overlap="1s"), wants("b", path="x.previous"))


# -- what stands from a run before ----------------------------------------------------------------


def test_while_all_is_down_init_starts_from_what_stands_if_it_may_and_is_young_enough(
    config: Make, timed: LocalStore, clock: FakeClock, tmp_path: Path, memory: Path
) -> None:
    allowed: dict[str, Any] = {"start_from_published": True, "max_stale": 100, "init_deadline": 5}
    item = wants("a")
    rotating(config, timed, clock, item, **allowed).publish_once()
    timed.path.rename(timed.path.with_name("away"))
    began = clock.monotonic()
    with pytest.raises(UnavailableError):  # it may not; and the same files are of another section
        rotating(config, timed, clock, item, init_deadline=5).publish_once()
    assert clock.monotonic() - began >= 5
    began = clock.monotonic()
    audit = AuditLog(tmp_path)
    made = rotating(config, timed, clock, item, audit=audit, **allowed)
    result = made.publish_once()
    audit.close()
    assert (result.changed, result.files) == (False, 1)
    assert clock.monotonic() == began
    assert '"secret.keep"' in audit.path.read_text()
    clock.tick(200)
    with pytest.raises(UnavailableError):  # too old
        rotating(config, timed, clock, item, **allowed).publish_once()
    assert shown(memory) == {"a.json": b'"1"'}


def test_the_age_is_that_of_the_last_fetch_though_nothing_was_flipped(
    config: Make, timed: LocalStore, clock: FakeClock, memory: Path
) -> None:
    allowed: dict[str, Any] = {"start_from_published": True, "max_stale": 100, "init_deadline": 1}
    made = rotating(config, timed, clock, wants("a"), **allowed)
    made.publish()
    clock.tick(90)
    assert not made.publish(refresh=True).changed
    clock.tick(90)
    timed.path.rename(timed.path.with_name("away"))
    again = rotating(config, timed, clock, wants("a"), **allowed)
    assert again.publish_once().generation == 1
    assert again.found()["a.json"]["fetched_at"] == clock.now() - 90


@pytest.mark.parametrize("change", ["format", "mode", "missing", "file", "gone"])
def test_what_stands_counts_only_if_it_is_what_is_asked_for(
    config: Make, timed: LocalStore, clock: FakeClock, memory: Path, change: str
) -> None:
    rotating(config, timed, clock, wants("a")).publish()
    timed.path.rename(timed.path.with_name("away"))
    more: dict[str, Any] = {"start_from_published": True, "init_deadline": 1}
    items = [wants("a")]
    if change == "format":
        items = [wants("a", format="raw", path="a.json")]
    elif change == "mode":
        more["file_mode"] = "0440"
    elif change == "missing":
        items.append(wants("b"))
    elif change == "file":
        (memory / confirmed.SEEN).write_text("{}")
    else:
        (memory / "..data").unlink()
    made = rotating(config, timed, clock, *items, **more)
    with pytest.raises(UnavailableError):
        made.publish_once()


def test_beside_a_live_agent_a_fresh_generation_is_left_alone(
    config: Make, timed: LocalStore, clock: FakeClock
) -> None:
    rotating(config, timed, clock).publish()
    timed.write(SecretName("a"), b'"2"')
    assert not rotating(config, timed, clock).publish_once(beside_agent=True).changed
    assert rotating(config, timed, clock).publish_once().changed
    clock.tick(301)
    timed.write(SecretName("a"), b'"3"')
    assert rotating(config, timed, clock).publish_once(beside_agent=True).changed


def test_init_says_which_secrets_it_waits_for(
    config: Make, provider: FakeProvider, capfd: pytest.CaptureFixture[str]
) -> None:
    provider.values = {f"s{number}": DOWN for number in range(8)}
    made = service_of(config(*(wants(f"s{n}") for n in range(8)), init_deadline=1), provider)
    with pytest.raises(UnavailableError):
        made.publish_once()
    told = capfd.readouterr()
    text = told.out + told.err
    assert "waiting for secrets" in text
    assert "s0" in text
    assert "s4" in text
    assert "seconds_left" in text


# -- the record, and the end ----------------------------------------------------------------------


def test_a_whole_set_is_recorded_with_who_and_why_in_two_syncs(
    config: Make, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.values = {f"s{number}": b"1" for number in range(50)}
    audit = AuditLog(tmp_path)
    made = service_of(config(*(wants(f"s{n}") for n in range(50))), provider, audit=audit)
    syncs: list[int] = []
    monkeypatch.setattr(os, "fsync", syncs.append)
    made.publish_once()
    audit.close()
    assert len(syncs) == 2
    lines = [json.loads(line) for line in audit.path.read_text().splitlines()]
    assert len(lines) == 51
    assert {line["why"] for line in lines} == {"init"}


def test_where_the_configuration_says_so_reads_go_on_without_a_record(
    config: Make, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = AuditLog(tmp_path, fail_closed=False)
    assert audit.condition().ok

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    provider.values["a"] = b"1"
    made = service_of(config(wants("a")), provider, audit=audit)
    monkeypatch.setattr(os, "fsync", full)
    made.publish()
    told = audit.condition()
    assert (told.ok, told.gates_ready) == (False, False)
    assert "No space left" in told.reason
    monkeypatch.undo()
    assert audit.retry()
    assert audit.condition().ok
    audit.close()


def test_after_wiping_nothing_is_left_and_nothing_comes_back(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    provider.values = {"a": b"1"}
    made = service_of(config(wants("a", overlap="60s")), provider)
    made.publish()
    made.publisher.wipe()
    assert [path.name for path in memory.iterdir()] == ["..lock"]
    with pytest.raises(PublishError, match="wiped"):
        made.publish()
