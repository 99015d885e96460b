"""The command line as a person meets it: grammar, exit codes, one clear line for each error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli import main

HEAVY = (
    *("asyncio", "structlog", "prometheus_client", "urllib3", "watchdog", "sqlite3", "ssl"),
    *("boto3", "botocore", "hvac", "requests", "importlib.metadata"),
)
"""What an `init` with the local store has no use for."""


def jules(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JULES_")}
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**kept, **environ},
    )


def test_help_names_every_verb_and_the_exit_codes() -> None:
    told = jules("--help").stdout
    for verb in ("init", "run", "status", "check", "reload", "demo", "secrets", "bundle", "alerts"):
        assert f"\n    {verb} " in told, verb
    assert "3 secrets unavailable" in told


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom agent.cli import build_parser\nbuild_parser()\n"
        "heavy = {'pydantic', 'structlog', 'yaml', 'asyncio', 'urllib3', 'boto3', 'ssl'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["secrets"], ["bundle", "deploy"], ["secrets", "put", "a", "value"]]
)
def test_a_command_that_is_none_ends_with_2_and_says_usage(arguments: list[str]) -> None:
    done = jules(*arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_an_error_is_two_lines_for_a_person(tmp_path: Path) -> None:
    done = jules("init", "--config", str(tmp_path / "none.yaml"))
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_one_object_for_a_program(tmp_path: Path) -> None:
    done = jules("status", "--json", "--config", str(tmp_path / "none.yaml"))
    told = json.loads(done.stderr)
    assert told["exit_code"] == done.returncode == 2
    assert "no such file" in told["error"]


def test_common_options_work_before_the_verb_and_behind_it(tmp_path: Path) -> None:
    named = ["--json", "--config", str(tmp_path / "none.yaml")]
    for words in ([*named, "secrets", "list"], ["secrets", "list", *named], [*named, "status"]):
        done = jules(*words)
        assert json.loads(done.stderr)["exit_code"] == 2, words


def test_the_configuration_may_come_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"state_dir: {tmp_path}\n")
    done = jules("status", JULES_CONFIG=str(path))
    assert done.returncode == 7
    assert str(tmp_path) in done.stderr


def test_init_of_a_state_folder_that_cannot_be_made_says_which_and_what_to_do(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    path = tmp_path / "agent.yaml"
    path.write_text(f"state_dir: {tmp_path}/file/state\n")
    done = jules("init", "--config", str(path))
    assert done.returncode == 2
    assert f"{tmp_path}/file/state cannot be made" in done.stderr
    assert "what to do" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("state", "step", "code"),
    [
        ("ACTIVE", None, 0),
        ("FAILED", "copy", 4),
        ("FAILED", "validate", 4),
        ("FAILED", "gates", 5),
        ("ROLLED_BACK", "verify", 5),
        ("ROLLED_BACK", "bake", 5),
    ],
)
def test_deploy_ends_with_4_for_the_bundle_and_5_for_the_health_of_the_trader(
    state: str, step: str | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent.yaml").write_text(f"state_dir: {tmp_path}\n")
    steps = [{"step": "flip", "outcome": "passed"}]
    steps += [{"step": step, "outcome": "failed"}] if step else []
    told = {"version": "v1", "state": state, "reason": None, "steps": steps}
    monkeypatch.setattr("agent.web.client.call", lambda *_, **__: told)
    assert main(["bundle", "deploy", "v1", "--config", str(tmp_path / "agent.yaml")]) == code


def test_status_of_no_agent_ends_with_7_and_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"state_dir: {tmp_path}\n")
    done = jules("status", "--config", str(path))
    assert done.returncode == 7
    assert "what to do" in done.stderr


def test_publishing_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    done = jules("bundle", "publish", gone, "--store", str(tmp_path / "s"), "--channel", "c")
    assert done.returncode == 2
    assert f"there is no folder {gone}" in done.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m agent --help | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() in ("0", "120")
    assert "Traceback" not in done.stderr


def test_check_tells_good_and_bad_with_remedies(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o644)
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"state_dir: {tmp_path}/state\n"
        "secrets:\n"
        f"  directory: {tmp_path}/secrets\n"
        f"  local: {{path: {tmp_path}/s.enc, key_file: {key}}}\n"
        f"bundles: {{root: {tmp_path}/models}}\n"
        "alerts:\n"
        "  slack: {webhook_url: {env: HOOK}}\n"
    )
    done = jules("check", "--config", str(config), "--json")
    assert done.returncode == 2
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    told = "\n".join(found)
    assert "configuration is valid" in told
    [open_key] = [finding for what, finding in found.items() if "by others" in what]
    assert open_key["verdict"] == "fail"
    assert open_key["remedy"] == f"chmod 0400 {key}"
    assert any("comes from the environment" in what for what in found)
    assert any("rules in" in what and "load" in what for what in found)
    assert all(f["remedy"] for f in found.values() if f["verdict"] == "fail")


def test_check_is_all_good_on_a_good_set_up(tmp_path: Path, tmpfs: Path) -> None:
    key = tmp_path / "key"
    assert jules("secrets", "new-key", str(key)).returncode == 0
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"state_dir: {tmp_path}/state\n"
        "secrets:\n"
        f"  directory: {tmpfs}/trading\n"
        f"  local: {{path: {tmp_path}/s.enc, key_file: {key}}}\n"
        f"bundles: {{root: {tmp_path}/models}}\n"
    )
    done = jules("check", "--config", str(config))
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout


def test_init_imports_nothing_that_its_configuration_does_not_use(
    tmp_path: Path, tmpfs: Path
) -> None:
    """What keeps it within the budget that benchmarks/init.py measures."""
    key = tmp_path / "key"
    assert jules("secrets", "new-key", str(key)).returncode == 0
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"state_dir: {tmp_path}/state\n"
        f"secrets: {{directory: {tmpfs}/t, local: {{path: {tmp_path}/s, key_file: {key}}}}}\n"
        f"bundles: {{enabled: false}}\n"
    )
    code = (
        "import os, sys\nfrom agent import cli\n"
        f"sys.argv = ['jules-agent', 'init', '--config', {str(config)!r}]\n"
        "def leave(code):\n"
        f"    heavy = {HEAVY!r}\n"
        "    print(code, [name for name in heavy if name in sys.modules], file=sys.__stdout__)\n"
        "os._exit = leave\ncli.entry()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
