"""The job in the running agent: it notices, repairs, rests, and tells the truth about ages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.configsecrets import Secrets
from agent.errors import UsageError
from agent.health import Condition
from agent.secrets.errors import (
    NotFoundError,
    SecretsError,
    StoreError,
    UnavailableError,
)
from agent.secrets.job import SecretsJob
from agent.secrets.providers.local import LocalStore
from agent.telemetry.metrics import NullRecorder
from agent.telemetry.redaction import Redactor
from agent.units import Monotonic, SecretName
from tests.secrets.test_generation import shown
from tests.secrets.test_service import wants

Make = Callable[..., Secrets]
A = SecretName("a")


class SkewedClock(SystemClock):
    """Real time, plus what a test adds."""

    def __init__(self) -> None:
        self.skew = 0.0

    def monotonic(self) -> Monotonic:
        return Monotonic(super().monotonic() + self.skew)


def job_of(section: Secrets, clock: SystemClock | None = None) -> SecretsJob:
    return SecretsJob(
        section,
        environment="development",
        audit=None,
        recorder=NullRecorder(),
        clock=clock or SystemClock(),
        redactor=Redactor(),
    )


async def until(holds: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)
    assert holds(), what


async def running(job: SecretsJob, body: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.create_task(job.run())
    try:
        await body()
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def condition(job: SecretsJob, name: str) -> Condition:
    return next(one for one in job.conditions() if one.name == name)


async def test_a_rotation_in_the_store_is_published_at_the_next_look(
    config: Make, store: LocalStore, memory: Path
) -> None:
    store.write(A, b"1", kind="bytes")
    job = job_of(config(wants("a", format="raw"), check_interval=0.02))

    async def body() -> None:
        await until(lambda: shown(memory) == {"a": b"1"} if memory.exists() else False, "first")
        store.write(A, b"2", kind="bytes")
        await until(lambda: shown(memory) == {"a": b"2"}, "second")
        assert job.snapshot()["items"][0]["version"] == "2"

    await running(job, body)


async def test_drift_is_put_right_and_an_unchanged_set_is_neither_read_nor_compared(
    config: Make, store: LocalStore, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(A, b"1", kind="bytes")
    job = job_of(config(wants("a", format="raw"), check_interval=0.02))
    publishes: list[object] = []
    real = job._service.publish

    def counted(**more: Any) -> Any:
        publishes.append(None)
        return real(**more)

    monkeypatch.setattr(job._service, "publish", counted)
    glances: list[object] = []
    marker = job._service.chain.marker

    def glance() -> str:
        glances.append(None)
        return marker()

    monkeypatch.setattr(job._service.chain, "marker", glance)

    async def body() -> None:
        await until(job._service.publisher.untouched, "at rest")
        before, looked = len(publishes), len(glances)
        await until(lambda: len(glances) > looked + 5, "five more looks")
        assert len(publishes) <= before + 1
        (memory / "..data" / "a").chmod(0o666)
        await until(lambda: (memory / "..data" / "a").stat().st_mode & 0o777 == 0o400, "repair")

    await running(job, body)


async def test_when_the_store_goes_away_the_files_stay_and_the_truth_is_told(
    config: Make, store: LocalStore, memory: Path
) -> None:
    store.write(A, b"1", kind="bytes")
    clock = SkewedClock()
    section = config(wants("a", format="raw"), check_interval=0.02, cache_ttl=10.0, max_stale=100.0)
    job = job_of(section, clock)

    async def body() -> None:
        await until(lambda: job.why_not() is None, "ready")
        assert all(one.ok for one in job.conditions())
        store.path.rename(store.path.with_suffix(".away"))
        clock.skew = 50.0
        await until(lambda: not condition(job, "secrets-fresh").ok, "staleness told")
        assert condition(job, "secrets-published").ok
        assert not condition(job, "secrets-fresh").gates_ready
        assert job.get("a") == b"1"
        assert job.snapshot()["items"][0]["age_seconds"] >= 50
        clock.skew = 101.0
        await until(lambda: not condition(job, "secrets-published").ok, "bound told")
        assert "max_stale: a" in (job.why_not() or "")
        with pytest.raises(UnavailableError):
            job.get("a")
        assert shown(memory) == {"a": b"1"}
        store.path.with_suffix(".away").rename(store.path)
        clock.skew = 140.0
        await until(lambda: all(one.ok for one in job.conditions()), "well again")

    await running(job, body)


async def test_a_failing_store_is_not_asked_at_every_look(
    config: Make, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(config(wants("a"), check_interval=0.01))
    reads: list[object] = []
    glances: list[object] = []
    real, marker = job._service.chain.read, job._service.chain.marker

    def read(name: SecretName) -> Any:
        reads.append(None)
        return real(name)

    monkeypatch.setattr(job._service.chain, "read", read)

    def glance() -> str:
        glances.append(None)
        return marker()

    monkeypatch.setattr(job._service.chain, "marker", glance)

    async def body() -> None:
        await until(lambda: len(glances) > 60, "many looks")
        assert len(reads) < 12  # the pause doubles
        store.write(A, b"{}")
        await until(lambda: job.why_not() is None, "noticed at once when the store appears")

    await running(job, body)


async def test_an_agent_that_starts_while_the_store_is_away_stands_by_the_files_of_the_run_before(
    config: Make, store: LocalStore
) -> None:
    store.write(A, b"{}")
    section = config(wants("a"))
    before = job_of(section)
    await before.refresh()
    store.path.unlink()
    job = job_of(section)
    with pytest.raises(SecretsError):
        await job.refresh()
    assert job.why_not() is None
    assert job.snapshot()["generation"] == 1
    assert job.snapshot()["items"][0]["version"] == "1"
    assert not condition(job, "secrets-fresh").ok
    old = job_of(config(wants("a"), max_stale=0.0))
    await asyncio.sleep(0.01)
    assert old.why_not() is not None


async def test_before_anything_was_published_nothing_is_ready(config: Make) -> None:
    job = job_of(config(wants("a")))
    assert "no generation" in (job.why_not() or "")
    assert not condition(job, "secrets-published").ok
    assert job.snapshot()["generation"] is None


async def test_a_reload_takes_the_new_items_over_and_loses_no_value(
    config: Make, store: LocalStore, memory: Path
) -> None:
    store.write(A, b"1", kind="bytes")
    store.write(SecretName("b"), b"2", kind="bytes")
    job = job_of(config(wants("a", format="raw"), check_interval=30.0))

    async def body() -> None:
        await until(lambda: job.why_not() is None, "first")
        job.prepare(config(wants("a", format="raw"), wants("b", format="raw")))()
        await until(lambda: shown(memory) == {"a": b"1", "b": b"2"}, "woken by the reload")
        os.rename(store.path, store.path.with_suffix(".away"))
        job.prepare(config(wants("b", format="raw"), check_interval=30.0))()
        assert job.get("a") == b"1"

    await running(job, body)


async def test_a_reload_never_moves_the_directory(config: Make, tmp_path: Path) -> None:
    job = job_of(config())
    moved = config().model_copy(update={"directory": tmp_path})
    with pytest.raises(UsageError, match="cannot change"):
        job.prepare(moved)


async def test_refresh_says_what_it_did_or_why_it_could_not(
    config: Make, store: LocalStore
) -> None:
    store.write(A, b"1")
    job = job_of(config(wants("a")))
    assert await job.refresh() == {"generation": 1, "changed": True, "files": 1}
    assert await job.refresh() == {"generation": 1, "changed": False, "files": 1}
    store.write(A, b"2")
    assert (await job.refresh())["generation"] == 2
    with pytest.raises(NotFoundError):
        await job_of(config(wants("a"), wants("none"))).refresh()


async def test_a_rotation_that_cannot_be_read_is_told_at_once_though_the_old_value_serves(
    config: Make, store: LocalStore, memory: Path
) -> None:
    store.write(A, b"1", kind="bytes")
    job = job_of(config(wants("a", format="raw"), check_interval=0.02))

    async def body() -> None:
        await until(lambda: job.why_not() is None, "first")
        good = store.path.read_bytes()
        store.path.write_bytes(good[:-5])
        await until(lambda: not condition(job, "secrets-fresh").ok, "told")
        assert "a is served from memory" in condition(job, "secrets-fresh").reason
        assert condition(job, "secrets-published").ok
        with pytest.raises(StoreError, match="served from memory"):
            await job.refresh()
        (memory / "..data" / "a").chmod(0o666)  # and drift is still put right
        await until(lambda: (memory / "..data" / "a").stat().st_mode & 0o777 == 0o400, "repair")
        assert shown(memory) == {"a": b"1"}
        store.path.write_bytes(good)
        await until(lambda: condition(job, "secrets-fresh").ok, "well again")

    await running(job, body)


async def test_no_value_is_in_what_the_face_shows(config: Make, store: LocalStore) -> None:
    store.write(A, b'{"password": "topsecret"}')
    job = job_of(config(wants("a")))
    await job.refresh()
    assert "topsecret" not in repr((job.snapshot(), job.conditions()))


async def test_a_value_that_fails_its_probe_is_held_back_and_said_aloud(
    config: Make, store: LocalStore, memory: Path, tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text("1")
    probe = {"kind": "command", "command": ["/bin/sh", "-c", f'test "$(cat)" = "$(cat {allowed})"']}
    store.write(A, b"1", kind="bytes")
    told = tmp_path / "told"
    job = job_of(
        config(
            wants("a", format="raw", probe=probe),
            check_interval=0.02,
            on_change=[{"command": ["/bin/sh", "-c", f"echo $JULES_SECRETS >> {told}"]}],
        )
    )

    async def body() -> None:
        await until(lambda: memory.exists() and shown(memory) == {"a": b"1"}, "first")
        assert condition(job, "secrets-proven").ok
        store.write(A, b"2", kind="bytes")
        await until(lambda: not condition(job, "secrets-proven").ok, "held back")
        assert shown(memory) == {"a": b"1"}
        assert "ended with 1" in job.snapshot()["items"][0]["error"]
        assert condition(job, "secrets-published").ok
        assert not told.exists()
        allowed.write_text("3")
        store.write(A, b"3", kind="bytes")  # another value is tried at once
        await until(lambda: shown(memory) == {"a": b"3"}, "proven")
        await until(lambda: told.exists() and told.read_text() == "a\n", "told")
        assert condition(job, "secrets-proven").ok
        assert condition(job, "secrets-told").ok

    await running(job, body)
