"""No secret's value is anywhere but in memory, in the trader's files and where a person asked.

Canaries are put into the store; everything that the agent writes while it works and while it fails
is searched for them, in the forms that a value could take.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from agent import fs

CANARIES = ("canary-Tr4ding-pass", "canary-w3bhook/T0/B0", "canary-n3sted-key", "canary-r4w-bytes")
VALUES: dict[str, tuple[bytes, list[str]]] = {
    "database/main": (json.dumps({"host": "db", "password": CANARIES[0]}).encode(), []),
    "api_key/slack": (json.dumps(CANARIES[1]).encode(), []),
    "broker/ib": (json.dumps({"deep": [{"key": CANARIES[2]}]}).encode(), []),
    "blob": (CANARIES[3].encode(), ["--raw"]),
}
KEY = b"canary-master-key-of-32-bytes!!!"


def forms(canary: bytes) -> list[bytes]:
    return [canary, base64.b64encode(canary).rstrip(b"="), canary.hex().encode()]


def leaks(data: bytes) -> list[bytes]:
    hidden = [canary.encode() for canary in CANARIES] + [KEY]
    return [form for canary in hidden for form in forms(canary) if form in data]


class Pod:
    """One agent's files and its command."""

    def __init__(self, root: Path, memory: Path) -> None:
        self.root, self.memory = root, memory
        self.said = b""
        (root / "store.key").write_bytes(KEY)
        (root / "store.key").chmod(0o400)
        self.configure()

    @property
    def store(self) -> Path:
        return self.root / "secrets.enc"

    def configure(self, key: str = "store.key", **secrets: object) -> None:
        items = [{"name": name, "format": "raw"} for name in VALUES]
        local = {"path": str(self.store), "key_file": str(self.root / key)}
        tree = {
            "state_dir": str(self.root / "state"),
            "log": {"level": "debug", "format": "json"},
            "web": {"listen": "127.0.0.1:0"},
            "secrets": {
                "directory": str(self.memory),
                "items": items,
                "local": local,
                "init_deadline": "200ms",
                "check_interval": "50ms",
                **secrets,
            },
            "bundles": {"enabled": False},
            "alerts": {"enabled": False},
        }
        (self.root / "agent.yaml").write_text(yaml.safe_dump(tree))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "ignore", "-m", "agent", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "JULES_CONFIG": str(self.root / "agent.yaml")},
        )

    def run(self, *words: str, value: bytes = b"") -> int:
        with self.start(*words) as process:
            out, err = process.communicate(value, timeout=60)
        self.said += out + err
        return process.returncode

    def written(self) -> dict[str, bytes]:
        """Everything on disk but the key: the store, its backup, state, audit, configuration."""
        return {
            str(path): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and path.name != "store.key"
        }


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    shared = Path("/dev/shm")
    if not shared.is_dir() or fs.filesystem_type(shared) not in ("tmpfs", "ramfs"):
        pytest.skip("no tmpfs at /dev/shm")
    memory = Path(tempfile.mkdtemp(prefix="jules-test-", dir=shared))
    try:
        made = Pod(tmp_path, memory / "secrets")
        for name, (value, more) in VALUES.items():
            assert made.run("secrets", "put", name, *more, value=value) == 0, made.said
        yield made
    finally:
        for folder, _, _ in os.walk(memory):
            os.chmod(folder, 0o700)
        shutil.rmtree(memory)


def test_while_everything_works_no_value_is_in_output_log_audit_state_or_store(pod: Pod) -> None:
    assert pod.run("init") == 0, pod.said
    assert pod.run("init", "--json") == 0
    assert pod.run("secrets", "list") == 0
    assert pod.run("secrets", "list", "--json") == 0
    assert pod.run("check") in (0, 2)
    assert (pod.memory / "database" / "main").read_bytes() == VALUES["database/main"][0]
    assert leaks(pod.said) == []
    for path, data in pod.written().items():
        assert leaks(data) == [], path
    index = (pod.memory / "..data" / ".index.json").read_bytes()
    assert leaks(index) == []


def test_while_everything_fails_no_value_is_in_what_is_said(pod: Pod) -> None:
    good = pod.store.read_bytes()
    codes = []
    for place in range(3, len(good), len(good) // 4):
        pod.store.write_bytes(good[:place] + bytes((good[place] ^ 0x05,)) + good[place + 1 :])
        codes.append(pod.run("init"))
        pod.store.write_bytes(good[:place])
        codes.append(pod.run("secrets", "get", "database/main"))
    pod.store.write_bytes(good)
    (pod.root / "other.key").write_bytes(bytes(32))
    (pod.root / "other.key").chmod(0o400)
    pod.configure("other.key")
    codes.append(pod.run("init"))
    (pod.root / "short.key").write_bytes(KEY[:-1])
    (pod.root / "short.key").chmod(0o400)
    pod.configure("short.key")
    codes.append(pod.run("init"))
    pod.configure(directory="/proc/self/nowhere")
    codes.append(pod.run("init"))
    pod.configure(items=[{"name": "blob", "format": "json"}])
    codes.append(pod.run("init"))
    pod.configure()
    for name, (value, _) in list(VALUES.items())[:2]:
        codes.append(pod.run("secrets", "put", name, value=b"{" + value))
        codes.append(pod.run("secrets", "put", name, "--type", "none", "--raw", value=value))
        codes.append(pod.run("secrets", "put", "not a name", "--raw", value=value))
    assert 0 not in codes
    assert pod.said.count(b"jules-agent: ") >= len(codes)
    assert leaks(pod.said.replace(KEY[:-1], b"")) == []
    assert KEY[:-1] not in pod.said
    (pod.root / "short.key").unlink()
    for path, data in pod.written().items():
        assert leaks(data) == [], path


def test_a_put_waiting_for_its_value_shows_it_in_neither_argv_nor_environment(pod: Pod) -> None:
    with pod.start("secrets", "put", "database/main") as process:
        assert process.stdin is not None
        process.stdin.write(VALUES["database/main"][0])
        process.stdin.flush()
        for name in ("cmdline", "environ"):
            try:
                assert leaks(Path(f"/proc/{process.pid}/{name}").read_bytes()) == []
            except PermissionError:
                assert name == "environ"  # closed to us: better still
        process.communicate(timeout=60)
    assert process.returncode == 0


def until(holds: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


def test_the_running_agent_says_nothing_dumps_nothing_and_closes_itself_to_others(
    pod: Pod,
) -> None:
    log = pod.root / "run.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "agent", "run"],
            stdout=out,
            stderr=out,
            env={**os.environ, "JULES_CONFIG": str(pod.root / "agent.yaml")},
        ) as process,
    ):
        try:
            until((pod.memory / "blob").exists, "published")
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            core = next(line for line in limits.splitlines() if line.startswith("Max core"))
            assert core.split()[4:6] == ["0", "0"]
            if os.geteuid() != 0:
                with pytest.raises(PermissionError):
                    Path(f"/proc/{process.pid}/environ").read_bytes()
            seen = Path(f"/proc/{process.pid}/environ").stat()
            assert seen.st_uid == 0  # what a process that is not dumpable looks like
            assert leaks(Path(f"/proc/{process.pid}/cmdline").read_bytes()) == []
            assert pod.run("status", "--json") == 0
            pod.store.write_bytes(pod.store.read_bytes()[:-7])
            until(lambda: b"not renewed" in log.read_bytes(), "the damage is told")
            assert pod.run("secrets", "refresh") == 3
            assert pod.run("status") == 0
            process.send_signal(signal.SIGABRT)  # what would dump core
            process.wait(20)
        finally:
            process.kill()
            process.wait(20)
    assert leaks(pod.said) == []
    assert not list(pod.root.rglob("core*"))
    for path, data in pod.written().items():
        assert leaks(data) == [], path
