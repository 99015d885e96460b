"""Reloads that come close together end with the newest configuration."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from agent.adminverbs import bundle_verb
from agent.bundles.job import BundlesJob
from agent.config import Config
from agent.daemon import Daemon
from agent.errors import AgentError, UsageError


def _config(state: Path, level: str) -> Config:
    off = {"enabled": False}
    return Config.model_validate(
        {
            "state_dir": str(state),
            "log": {"level": level},
            "secrets": off,
            "bundles": off,
            "alerts": off,
        }
    )


async def test_a_reload_that_read_an_older_file_never_undoes_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(_config(tmp_path, "info"), tmp_path / "agent.yaml")
    calls: list[int] = []
    newer_is_in_force = threading.Event()

    def load(_path: Path) -> Config:
        calls.append(1)
        if len(calls) == 1:  # read the old file, and is slow to come back with it
            newer_is_in_force.wait(0.5)
            return _config(tmp_path, "warning")
        return _config(tmp_path, "error")

    monkeypatch.setattr("agent.daemon.load_config", load)
    monkeypatch.setattr(
        "agent.daemon.configure_logging",
        lambda level, _: newer_is_in_force.set() if level == "error" else None,
    )
    try:
        daemon._on_hangup()
        daemon._on_hangup()
        await asyncio.gather(*daemon._reloads)
        assert daemon.config.log.level == "error"
    finally:
        daemon._stack.close()


async def test_a_reload_asked_over_the_socket_waits_for_the_one_under_way(tmp_path: Path) -> None:
    daemon = Daemon(_config(tmp_path, "info"), tmp_path / "missing.yaml")
    try:
        async with daemon._reloading:
            asked = asyncio.create_task(daemon.admin("reload", {}))
            await asyncio.sleep(0.05)
            assert not asked.done()
        with pytest.raises(AgentError):
            await asyncio.wait_for(asked, 10.0)
    finally:
        daemon._stack.close()


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("history", {"limit": True}),
        ("history", {"limit": 10**30}),
        ("rollback", {"version": ["v1"]}),
        ("deploy", {"version": "v1", "source": 123}),
        ("deploy", {"version": "v1", "source": "a\0b"}),
        ("deploy", {"version": "v\0001"}),
    ],
)
async def test_arguments_of_a_wrong_kind_are_a_usage_error(
    verb: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):  # none comes as far as the job
        await bundle_verb(cast("BundlesJob", object()), verb, arguments)


async def test_a_hangup_while_the_agent_leaves_starts_no_reload(tmp_path: Path) -> None:
    daemon = Daemon(_config(tmp_path, "info"), tmp_path / "agent.yaml")
    try:
        daemon._draining = True
        daemon._on_hangup()
        assert not daemon._reloads
    finally:
        daemon._stack.close()
