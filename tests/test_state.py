"""What is remembered survives a kill; what is corrupt is set aside and never in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.state import StateDB, StateError
from tests.faults.clock import FakeClock

TABLE = "CREATE TABLE pages (id INTEGER PRIMARY KEY, text TEXT)"


def test_a_committed_row_is_there_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    code = (
        "import os, signal, sys, pathlib\nfrom agent.state import StateDB\n"
        "db = StateDB(pathlib.Path(sys.argv[1]))\n"
        f"db.migrate('pages', [{TABLE!r}])\n"
        "with db.transaction() as cursor:\n"
        "    cursor.execute(\"INSERT INTO pages VALUES (1, 'kept')\")\n"
        "cursor = db._connection.cursor(); cursor.execute('BEGIN')\n"
        "cursor.execute(\"INSERT INTO pages VALUES (2, 'never committed')\")\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    db = StateDB(path)
    assert [row["text"] for row in db.query("SELECT text FROM pages")] == ["kept"]
    db.close()


def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path) -> None:
    db = StateDB(tmp_path / "state.db")
    db.migrate("pages", [TABLE])
    with pytest.raises(RuntimeError, match="midway"), db.transaction() as cursor:
        cursor.execute("INSERT INTO pages VALUES (1, 'x')")
        raise RuntimeError("midway")
    assert db.query("SELECT * FROM pages") == []
    db.close()


def test_each_step_of_a_migration_runs_once(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for steps in ([TABLE], [TABLE, "ALTER TABLE pages ADD COLUMN at REAL"]):
        db = StateDB(path)
        db.migrate("pages", steps)
        db.close()
    db = StateDB(path)
    assert [row["name"] for row in db.query("PRAGMA table_info(pages)")] == ["id", "text", "at"]
    db.close()


def test_a_corrupt_file_is_set_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(os.urandom(8192))
    db = StateDB(path, FakeClock(now=1_750_000_000.0))
    assert db.set_aside == tmp_path / "state.db.corrupt-1750000000"
    db.migrate("pages", [TABLE])
    assert db.query("SELECT * FROM pages") == []
    assert path.stat().st_mode & 0o077 == 0
    db.close()


def test_a_state_file_that_cannot_be_opened_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.mkdir()
    with pytest.raises(StateError, match=r"state\.db cannot be opened") as caught:
        StateDB(path)
    assert "free space" in caught.value.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_an_agent_on_a_full_state_volume_says_so_instead_of_a_traceback(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "jules-test", str(state)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this machine mounts no tmpfs")
    try:
        (state / "filler").write_bytes(bytes(65536))
        config = tmp_path / "agent.yaml"
        config.write_text(f"state_dir: {state}\nsecrets: {{enabled: false}}\n")
        done = subprocess.run(
            [sys.executable, "-m", "agent", "run", "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        subprocess.run(["umount", str(state)], check=True)
    assert "Traceback" not in done.stderr
    assert "state.db cannot be opened" in done.stderr
    assert "free space" in done.stderr
