"""The command line's secrets verbs, run as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from agent.audit import verify
from agent.secrets import verbs
from agent.secrets.errors import KeyFileError
from tests.secrets.test_generation import shown

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def run(tmp_path: Path, memory: Path) -> Run:
    """Runs `jules-agent` with a configuration of one secret in `tmp_path`."""
    config = {
        "state_dir": str(tmp_path / "state"),
        "secrets": {
            "directory": str(memory),
            "items": [{"name": "database/main"}],
            "local": {
                "path": str(tmp_path / "secrets.enc"),
                "key_file": str(tmp_path / "store.key"),
            },
            "init_deadline": "1s",
        },
        "bundles": {"enabled": False},
        "alerts": {"enabled": False},
    }
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(config))

    def go(*words: str, value: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "agent", *words],
            input=value,
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "JULES_CONFIG": str(tmp_path / "agent.yaml"), **more},
        )

    assert go("secrets", "new-key", str(tmp_path / "store.key")).returncode == 0
    return go


def test_a_secret_goes_from_put_through_init_to_the_traders_file(run: Run, memory: Path) -> None:
    put = run("secrets", "put", "database/main", "--json", value=b'{"password": "p"}')
    assert json.loads(put.stdout) == {"name": "database/main", "version": "1"}
    done = run("init", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["secrets"]["generation"] == 1
    assert shown(memory) == {"database/main.json": b'{"password": "p"}'}
    again = json.loads(run("init", "--json").stdout)
    assert again["secrets"]["changed"] is False


def test_get_prints_the_value_and_only_the_value(run: Run) -> None:
    run("secrets", "put", "blob", "--raw", value=b"\x00\xff\n")
    got = run("secrets", "get", "blob")
    assert (got.stdout, got.stderr, got.returncode) == (b"\x00\xff\n", b"", 0)


def test_list_tells_names_types_and_versions(run: Run) -> None:
    assert run("secrets", "list").returncode == 3
    run("secrets", "put", "a", "--type", "jwt_secret", "--description", "d", value=b'"xyzzy"')
    told = json.loads(run("secrets", "list", "--json").stdout)
    assert [(one["name"], one["type"], one["version"]) for one in told] == [
        ("a", "jwt_secret", "1")
    ]
    assert b"xyzzy" not in run("secrets", "list").stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("secrets", "put", "a"), 2),
        (("secrets", "put", "a b", "--raw"), 3),
        (("secrets", "put", "a", "--raw", "--type", "none"), 2),
        (("secrets", "put", "a", "--file", "/nowhere"), 2),
        (("secrets", "get", "none"), 3),
        (("init",), 3),
    ],
)
def test_what_goes_wrong_ends_in_one_line_a_remedy_and_the_right_code(
    run: Run, words: tuple[str, ...], code: int
) -> None:
    done = run(*words, value=b"{not json")
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"jules-agent: " in done.stderr
    assert b"what to do: " in done.stderr
    assert b"not json" not in done.stderr


def test_where_the_agents_state_is_each_access_is_recorded(run: Run, tmp_path: Path) -> None:
    run("secrets", "put", "a", value=b'"before"')
    assert not (tmp_path / "state").exists()  # a workstation keeps no audit log
    (tmp_path / "state").mkdir(mode=0o700)
    run("secrets", "put", "a", value=b'"xyzzy"')
    run("secrets", "get", "a")
    run("secrets", "get", "none")
    lines = (tmp_path / "state" / "audit.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [(one["actor"], one["action"], one["subject"], one["outcome"]) for one in told] == [
        ("operator", "secret.write", "a", "ok"),
        ("operator", "secret.read", "a", "ok"),
        ("operator", "secret.read", "none", "failed"),
    ]
    assert verify(tmp_path / "state") == 3
    assert "xyzzy" not in "".join(lines)


def test_where_the_record_cannot_be_written_the_value_is_not_printed(
    run: Run, tmp_path: Path
) -> None:
    run("secrets", "put", "a", value=b'"xyzzy"')
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "audit.jsonl").mkdir()
    done = run("secrets", "get", "a")
    assert done.returncode != 0
    assert b"xyzzy" not in done.stdout + done.stderr


def test_a_key_file_is_never_replaced_and_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "k"
    verbs.new_key_file(path)
    before = path.read_bytes()
    assert len(before) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyFileError, match="exists already"):
        verbs.new_key_file(path)
    assert path.read_bytes() == before
    with pytest.raises(KeyFileError):
        verbs.new_key_file(tmp_path / "none" / "k")
    assert os.listdir(tmp_path) == ["k"]


def test_rotate_makes_a_new_value_and_says_its_version_but_never_the_value(run: Run) -> None:
    run(
        *("secrets", "put", "database/main", "--type", "database_password"),
        value=b'{"host": "h", "password": "before"}',
    )
    done = run("secrets", "rotate", "database/main", "--json", "--length", "30")
    told = {"name": "database/main", "provider": "local", "version": "2"}
    assert json.loads(done.stdout) == told
    tree = json.loads(run("secrets", "get", "database/main").stdout)
    assert tree["host"] == "h"
    assert len(tree["password"]) == 30
    assert tree["password"].encode() not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("rotate", "a", "--provider", "vault"), b"vault is not configured"),
        (("rotate", "a", "--root", "x"), b"--root is Vault's"),
        (("get", "a", "--version", "1"), b"the local store keeps"),
        (("get", "a", "--provider", "aws", "--previous"), b"--previous is the local store's"),
        (("put", "a", "--cas", "1"), b"no check-and-set"),
    ],
)
def test_an_option_of_another_provider_is_a_usage_error(
    run: Run, words: tuple[str, ...], told: bytes
) -> None:
    done = run("secrets", *words, value=b'"x"')
    assert done.returncode == 2
    assert told in done.stderr
