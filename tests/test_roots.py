"""Two agents never share a root unawares."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import Config
from agent.daemon import Daemon
from agent.errors import BusyError, Exit


def _tree(folder: Path, name: str) -> dict[str, Any]:
    return {
        "environment": "development",
        "state_dir": str(folder / name),
        "secrets": {
            "directory": str(folder / f"secrets-{name}"),
            "allow_disk": True,
            "local": {"path": str(folder / "s.enc"), "key_file": str(folder / "key")},
        },
        "bundles": {"root": str(folder / f"models-{name}")},
        "alerts": {"enabled": False},
    }


@pytest.mark.parametrize(("part", "option"), [("secrets", "directory"), ("bundles", "root")])
def test_a_second_agent_with_a_state_folder_of_its_own_is_refused_a_shared_root(
    tmp_path: Path, part: str, option: str
) -> None:
    first, second = _tree(tmp_path, "a"), _tree(tmp_path, "b")
    second[part][option] = first[part][option]
    daemon = Daemon(Config.model_validate(first))
    try:
        with pytest.raises(BusyError, match=rf"pid {os.getpid()}\) works in") as caught:
            Daemon(Config.model_validate(second))
        assert caught.value.exit_code == Exit.UNREACHABLE
    finally:
        daemon._stack.close()
    Daemon(Config.model_validate(second))._stack.close()  # free again once the first has left


def test_init_whose_audit_log_cannot_be_written_says_that_secrets_are_unavailable(
    tmp_path: Path,
) -> None:
    tree = _tree(tmp_path, "a")
    tree["bundles"]["enabled"] = False
    (tmp_path / "a" / "audit.jsonl").mkdir(parents=True)
    file = tmp_path / "agent.yaml"
    file.write_text(yaml.safe_dump(tree))
    done = subprocess.run(
        [sys.executable, "-m", "agent", "init", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == Exit.SECRETS
    assert "audit log" in done.stderr
    assert "Traceback" not in done.stderr
