"""The seed fills an empty installation, and leaves alone what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.configload import load_config
from agent.demo.seed import main
from agent.secrets import verbs

RECEIVER = "http://localhost:9911"


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(
        f"secrets: {{local: {{path: {tmp_path}/secrets.enc, key_file: {tmp_path}/key}}}}\n"
        f"bundles: {{root: {tmp_path}/models, store: {{path: {tmp_path}/store}}}}\n"
    )
    return path


def _seed(config_path: Path) -> int:
    return main(["--config", str(config_path), "--receiver", RECEIVER])


def test_an_empty_installation_gets_a_key_five_secrets_and_a_bundle(
    config_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _seed(config_path) == 0
    config = load_config(config_path, {})
    names = {str(entry.name) for entry in verbs.list_names(config.secrets)}
    assert {"database/main", "api_key/pagerduty", "api_key/slack"} <= names
    hook = json.loads(verbs.get(config.secrets, "api_key/slack").value.reveal())["webhook_url"]
    assert hook.startswith(RECEIVER)
    channel = config_path.parent / "store" / "channels" / "development.json"
    assert json.loads(channel.read_text())["version"] == "v2025-07-06"
    told = capfd.readouterr().out
    assert "$ jules-agent secrets put database/main" in told
    assert hook not in told


def test_a_second_run_changes_nothing(config_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _seed(config_path) == 0
    sealed, key = config_path.parent / "secrets.enc", config_path.parent / "key"
    before = (sealed.read_bytes(), key.read_bytes())
    capfd.readouterr()
    assert _seed(config_path) == 0
    assert capfd.readouterr().out == ""
    assert (sealed.read_bytes(), key.read_bytes()) == before


def test_what_an_operator_has_put_is_kept(config_path: Path) -> None:
    assert _seed(config_path) == 0
    config = load_config(config_path, {})
    mine = verbs.get(config.secrets, "database/main").value.reveal()
    channel = config_path.parent / "store" / "channels" / "development.json"
    channel.unlink()
    assert _seed(config_path) == 0
    assert channel.exists()
    assert verbs.get(config.secrets, "database/main").value.reveal() == mine


def test_a_store_that_cannot_be_read_ends_with_a_remedy_and_its_code(
    config_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _seed(config_path) == 0
    (config_path.parent / "key").write_bytes(b"x" * 32)
    capfd.readouterr()
    assert _seed(config_path) == 3
    assert capfd.readouterr().out.startswith("seed: ")
