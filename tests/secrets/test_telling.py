"""Whoever asked for it hears of new secrets: once for each generation, across restarts."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.configrotation import OnChange
from agent.configsecrets import Secrets
from agent.secrets.model import Fetched
from agent.secrets.service import SecretsService
from agent.secrets.telling import FILE, Teller
from agent.telemetry.metrics import NullRecorder
from agent.units import SecretName
from tests.faults.clock import FakeClock
from tests.secrets.conftest import FakeProvider
from tests.secrets.test_service import service_of, wants

Make = Callable[..., Secrets]


class Stage:
    """A service and a teller over one state folder, and a file that a command adds a line to."""

    def __init__(self, config: Make, provider: FakeProvider, folder: Path) -> None:
        self.folder, self.provider, self.clock = folder, provider, FakeClock()
        self.heard = folder / "heard"
        provider.values = {"a": b"1", "b": b"1"}
        read = provider.read

        def versioned(name: SecretName) -> Fetched:
            fetched = read(name)
            return replace(fetched, version=fetched.value.reveal().decode())

        provider.read = versioned  # type: ignore[method-assign]
        self.section = config(wants("a", format="raw"), wants("b", format="raw"))
        self.service: SecretsService = service_of(self.section, provider, self.clock)
        self.hooks = [self.hook()]
        self.restart()

    def hook(self, then: str = "true", **more: object) -> OnChange:
        line = f'echo "$JULES_GENERATION $JULES_SECRETS" >> {self.heard}; {then}'
        return OnChange.model_validate({"command": ["/bin/sh", "-c", line], **more})

    def restart(self) -> None:
        self.teller = Teller(self.folder, NullRecorder(), self.clock, roll=lambda: 1.0)

    def publish(self, **values: bytes) -> None:
        self.provider.values.update(values)
        result = self.service.publish(refresh=True)
        self.teller.notice(self.section.directory, self.hooks, result)

    def go(self) -> None:
        now = self.clock.monotonic()
        for key in [key for key, at in self.teller._due.items() if at <= now]:
            self.teller.tell(key)

    def lines(self) -> list[str]:
        return self.heard.read_text().splitlines() if self.heard.exists() else []


@pytest.fixture
def stage(config: Make, provider: FakeProvider, tmp_path: Path) -> Stage:
    return Stage(config, provider, tmp_path)


def test_the_first_generation_is_no_change_and_each_later_one_is_told_once(stage: Stage) -> None:
    for values in ({}, {"a": b"2"}, {}, {"a": b"3", "b": b"3"}):
        stage.publish(**values)
        stage.go()
        stage.go()
    assert stage.lines() == ["2 a", "3 a b"]


def test_a_restart_tells_nothing_twice_and_what_was_missed_once(stage: Stage) -> None:
    stage.publish()
    stage.publish(a=b"2")
    stage.go()
    stage.restart()
    stage.publish()
    stage.go()
    assert stage.lines() == ["2 a"]
    stage.publish(a=b"3")  # and the agent is killed before it tells
    stage.restart()
    stage.publish()
    stage.go()
    stage.restart()
    stage.publish()
    stage.go()
    assert stage.lines() == ["2 a", "3 a"]


def test_a_flip_by_init_beside_the_record_is_told_by_the_agent_that_starts(stage: Stage) -> None:
    stage.publish()
    stage.provider.values["b"] = b"2"
    stage.service.publish(refresh=True)
    stage.restart()
    stage.publish()
    stage.go()
    assert stage.lines() == ["2 b"]


def test_an_agent_that_is_killed_in_the_middle_of_a_try_does_not_begin_it_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.publish()
    stage.publish(a=b"2")

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("agent.secrets.telling._tell", killed)
        with pytest.raises(KeyboardInterrupt):
            stage.go()
    stage.restart()
    stage.publish()
    stage.go()
    assert stage.lines() == []
    assert stage.teller._due == {}


def test_a_failed_try_is_repeated_with_a_growing_pause_and_given_up_at_last(stage: Stage) -> None:
    stage.hooks = [stage.hook("exit 3", tries=3)]
    stage.publish()
    stage.publish(a=b"2")
    pauses = []
    for _ in range(3):
        stage.go()
        due = list(stage.teller._due.values())
        pauses.append(round(due[0] - stage.clock.monotonic()) if due else None)
        stage.clock.tick(10)
    assert pauses == [1, 2, None]
    assert stage.lines() == ["2 a"] * 3
    condition = stage.teller.condition()
    assert not condition.ok
    assert "ended with 3" in condition.reason
    stage.hooks = [stage.hook()]
    stage.publish(a=b"3")
    stage.go()
    assert stage.teller.condition().ok


def test_files_that_were_put_right_are_no_change(stage: Stage, memory: Path) -> None:
    stage.publish()
    (memory / "..data" / "a").chmod(0o644)
    before = os.readlink(memory / "..data")
    stage.publish()
    assert os.readlink(memory / "..data") != before
    stage.go()
    assert stage.lines() == []


def test_one_who_asked_for_some_names_hears_of_no_other(stage: Stage) -> None:
    stage.hooks = [stage.hook(names=["b"])]
    stage.publish()
    stage.publish(a=b"2")
    stage.go()
    stage.publish(b=b"2")
    stage.go()
    assert stage.lines() == ["3 b"]


def test_what_cannot_be_noted_is_not_begun(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.publish()
    stage.publish(a=b"2")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("agent.fs.write_durable", full)
        stage.go()
        assert stage.lines() == []
    stage.clock.tick(2)
    stage.go()
    assert stage.lines() == ["2 a"]


@pytest.mark.parametrize("rubbish", ["", "{", "[]", '{"place": 1}', "\x00"])
def test_a_damaged_note_begins_anew_and_breaks_nothing(stage: Stage, rubbish: str) -> None:
    (stage.folder / FILE).write_text(rubbish)
    stage.restart()
    stage.publish()
    stage.publish(a=b"2")
    stage.go()
    assert stage.lines() == ["2 a"]


@pytest.mark.parametrize("by", ["pid_file", "exe"])
def test_a_real_process_gets_its_signal(stage: Stage, by: str) -> None:
    shell = stage.folder / "trader"
    shutil.copy("/bin/sh", shell)
    script = f"trap 'echo hup >> {stage.heard}' HUP; echo ready >> {stage.heard}; "
    process = subprocess.Popen(
        [str(shell), "-c", script + "while :; do read -r x; done"], stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        (stage.folder / "pid").write_text(f"{process.pid}\n")
        where = {"pid_file": str(stage.folder / "pid"), "exe": str(shell)}[by]
        stage.hooks = [OnChange.model_validate({"signal": {by: where}})]
        _until(lambda: stage.lines() == ["ready"])
        stage.publish()
        stage.publish(a=b"2")
        stage.go()
        assert stage.teller.condition().ok, stage.teller.condition().reason
        _until(lambda: stage.lines() == ["ready", "hup"])
    finally:
        process.stdin.close()
        process.kill()
        process.wait()


def test_a_process_that_is_not_there_is_said_so(stage: Stage) -> None:
    missing = str(stage.folder / "none")
    stage.hooks = [OnChange.model_validate({"signal": {"pid_file": missing}})]
    stage.publish()
    stage.publish(a=b"2")
    stage.go()
    assert "no process of" in stage.teller.condition().reason


async def test_the_loop_tells_soon_after_the_flip(stage: Stage) -> None:
    stage.publish()
    task = asyncio.create_task(stage.teller.run())
    try:
        await asyncio.sleep(0)
        await asyncio.to_thread(stage.publish, a=b"2")
        async with asyncio.timeout(20):
            while not stage.lines():
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert stage.lines() == ["2 a"]


def _until(holds: Callable[[], bool]) -> None:
    import time

    give_up = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)
