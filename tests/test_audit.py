"""The audit chain finds every edit, survives a kill, and is shared by processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent.audit import AuditError, AuditLog, Record, verify
from agent.auditchain import LOG, MARK, records, rotated, verify_chain
from agent.units import Bytes
from tests.faults.clock import FakeClock
from tests.secrets.kills import killed_at_every_change, needs_strace


def filled(folder: Path, count: int = 5) -> Path:
    log = AuditLog(folder, FakeClock())
    for number in range(count):
        log.append("agent", "secret.read", f"database/{number}", "ok", {"version": str(number)})
    log.close()
    return folder / "audit.jsonl"


def test_a_chain_verifies_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    filled(tmp_path, 4)
    assert verify(tmp_path) == 7
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["edit", "delete", "reorder", "rechain"])
def test_an_edit_a_deletion_and_a_reorder_are_found(tmp_path: Path, damage: str) -> None:
    path = filled(tmp_path)
    lines = path.read_text().splitlines()
    if damage == "edit":
        lines[2] = lines[2].replace("database/2", "database/9")
    elif damage == "delete":
        del lines[2]
    elif damage == "reorder":
        lines[2], lines[3] = lines[3], lines[2]
    else:  # somebody without the key makes a record that fits the sequence
        record = json.loads(lines[2])
        record["outcome"] = "denied"
        lines[2] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(AuditError, match="line [34]"):
        verify(tmp_path)


def test_a_line_torn_by_a_kill_is_cut_off_and_noted(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with path.open("ab") as tail:
        tail.write(b'{"seq":6,"half')
    AuditLog(tmp_path, FakeClock()).close()
    assert verify(tmp_path) == 6
    assert json.loads(path.read_text().splitlines()[-1])["action"] == "audit.repair"


def test_two_processes_append_to_one_chain(tmp_path: Path) -> None:
    AuditLog(tmp_path).close()
    code = (
        "import sys, pathlib\nfrom agent.audit import AuditLog\n"
        "log = AuditLog(pathlib.Path(sys.argv[1]))\n"
        "for n in range(50): log.append('library', 'secret.read', str(n), 'ok')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert verify(tmp_path) == 150


# -- rotation, batches, the mark ------------------------------------------------------------------


def rotating(folder: Path, count: int = 20, keep: int = 16) -> AuditLog:
    """An open log whose files hold a handful of records each."""
    log = AuditLog(folder, FakeClock(), max_size=Bytes(1200), keep=keep)
    for number in range(count):
        log.append("agent", "secret.read", f"database/{number}", "ok", {"version": str(number)})
    return log


def files(folder: Path) -> list[Path]:
    return [*(path for _, path in rotated(folder)), folder / LOG]


def test_a_full_file_is_rotated_and_the_chain_runs_through(tmp_path: Path) -> None:
    rotating(tmp_path).close()
    seen = verify_chain(tmp_path)
    assert seen.records == seen.last_seq == 20
    assert seen.files > 3
    old, new = files(tmp_path)[:2]
    last = json.loads(old.read_text().splitlines()[-1])
    assert json.loads(new.read_text().splitlines()[0])["prev"] == last["hash"]
    assert all(path.stat().st_size <= 1200 for path in files(tmp_path))
    assert [record["seq"] for record in records(tmp_path)] == list(range(1, 21))


def test_files_beyond_those_to_keep_go_and_the_rest_still_verifies(tmp_path: Path) -> None:
    rotating(tmp_path, 60, keep=2).close()
    assert len(rotated(tmp_path)) == 2
    seen = verify_chain(tmp_path)
    assert seen.first_seq > 1
    assert seen.last_seq == 60
    rotated(tmp_path)[0][1].unlink()  # one more than retention took
    with pytest.raises(AuditError, match="line 1 breaks the chain"):
        verify(tmp_path)


def test_a_batch_is_whole_and_in_order_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(tmp_path, FakeClock())
    syncs: list[int] = []
    real = os.fsync

    def counted(fd: int) -> None:
        syncs.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fsync", counted)
    batch = [Record("init", "secret.read", f"a/{n}", "ok", why="init") for n in range(50)]
    log.append_many(batch)
    assert len(syncs) == 1

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AuditError, match="No space left"):
        log.append_many(batch)
    assert "No space left" in str(log.problem)
    monkeypatch.setattr(os, "fsync", real)
    assert log.retry()
    log.close()
    told = list(records(tmp_path))
    assert [record["subject"] for record in told[:50]] == [f"a/{n}" for n in range(50)]
    assert told[0]["why"] == "init"
    assert [(record["action"], record["detail"]) for record in told[50:]] == [
        ("audit.resume", {"lost": 50})
    ]
    assert verify(tmp_path) == 51


def test_a_process_goes_on_in_the_new_file_that_another_began(tmp_path: Path) -> None:
    one = rotating(tmp_path, 1)
    two = rotating(tmp_path, 30)
    one.append("agent", "secret.read", "last", "ok")
    one.close()
    two.close()
    assert verify(tmp_path) == 32
    assert list(records(tmp_path))[-1]["subject"] == "last"


def test_processes_that_rotate_at_once_lose_no_record(tmp_path: Path) -> None:
    AuditLog(tmp_path).close()
    code = (
        "import sys, pathlib\nfrom agent.audit import AuditLog\n"
        "log = AuditLog(pathlib.Path(sys.argv[1]), max_size=2000, keep=1000)\n"
        "for n in range(60): log.append('library', 'secret.read', str(n), 'ok')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert verify(tmp_path) == 180
    assert len(rotated(tmp_path)) > 10


@pytest.mark.parametrize("cut", ["file", "lines", "live", "gone-live"])
def test_a_cut_at_the_end_is_found_also_after_the_agent_went_on(tmp_path: Path, cut: str) -> None:
    log = rotating(tmp_path, 8)
    path = tmp_path / LOG
    if cut in ("file", "gone-live"):
        path.unlink()
    else:
        path.write_bytes(b"")
    if cut in ("file", "lines"):
        log.close()
        if cut == "lines":
            with pytest.raises(AuditError, match="ends at record"):
                verify(tmp_path)
        log = rotating(tmp_path, 12)
    else:
        for _ in range(12):
            log.append("agent", "secret.read", "x", "ok")
    log.close()
    with pytest.raises(AuditError, match="the end was cut off"):
        verify(tmp_path)


def test_without_its_mark_a_log_is_not_called_whole_nor_later(tmp_path: Path) -> None:
    rotating(tmp_path).close()
    (tmp_path / MARK).write_bytes(b"{}")
    with pytest.raises(AuditError, match="mark"):
        verify(tmp_path)
    rotating(tmp_path, 1).close()
    with pytest.raises(AuditError, match="its mark was gone"):
        verify(tmp_path)


def test_a_kill_between_rename_and_new_file_loses_nothing(tmp_path: Path) -> None:
    rotating(tmp_path, 3).close()
    (tmp_path / LOG).rename(tmp_path / f"{LOG}.9")
    rotating(tmp_path, 3).close()
    assert verify(tmp_path) == 6


def test_a_log_is_verified_beside_a_writer(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom agent.audit import AuditLog\n"
        "log = AuditLog(pathlib.Path(sys.argv[1]), max_size=3000, keep=1000)\n"
        "print('on', flush=True)\n"
        "while True: log.append('library', 'secret.read', 'x', 'ok')\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "on\n"
        seen = [verify(tmp_path) for _ in range(40)]
    finally:
        writer.kill()
        writer.communicate()
    assert seen == sorted(seen)


ROTATES = """
import os, pathlib, sys
from agent.audit import AuditLog
log = AuditLog(pathlib.Path(sys.argv[1]), max_size=1200, keep=2)
os.getpriority(os.PRIO_PROCESS, 0)
for n in range(5):
    log.append("agent", "secret.read", f"database/{n}", "ok", {"version": str(n)})
os.getpriority(os.PRIO_PROCESS, 0)
"""


@needs_strace
def test_a_kill_at_any_step_of_a_rotation_leaves_a_chain_that_verifies_and_goes_on(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    rotating(folder, 20, keep=2).close()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}

    def restore() -> None:
        for path in folder.iterdir():
            path.unlink()
        for name, data in whole.items():
            (folder / name).write_bytes(data)

    ends = set()
    for point in killed_at_every_change(ROTATES, [str(folder)], restore):
        if (folder / LOG).exists():
            seen = verify_chain(folder)
            assert 20 <= seen.last_seq <= 25, point
        log = rotating(folder, 1, keep=2)
        log.close()
        after = verify_chain(folder)
        ends.add(after.last_seq)
        assert not after.torn
    assert {21, 26} <= ends


@contextmanager
def a_copy(made: dict[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="jules-audit-") as name:
        for file, data in made.items():
            (Path(name) / file).write_bytes(data)
        yield Path(name)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("chain")
    rotating(folder, 16).close()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_done_to_the_lines_of_any_file_is_found(
    chain: dict[str, bytes], data: st.DataObject
) -> None:
    names = sorted(name for name in chain if name.startswith(LOG))
    lines = [(name, line) for name in names for line in chain[name].splitlines(keepends=True)]
    at = data.draw(st.integers(0, len(lines) - 1))
    name, line = lines[at]
    how = data.draw(st.sampled_from(["byte", "delete", "swap", "repeat", "cut", "move", "file"]))
    changed = list(lines)
    if how == "byte":
        where = data.draw(st.integers(0, len(line) - 1))
        byte = data.draw(st.integers(0, 255))
        assume(byte != line[where])
        changed[at] = (name, line[:where] + bytes([byte]) + line[where + 1 :])
    elif how == "delete":
        del changed[at]
    elif how == "swap":
        other = data.draw(st.integers(0, len(lines) - 1))
        assume(other != at)
        changed[at], changed[other] = (name, lines[other][1]), (lines[other][0], line)
    elif how == "repeat":
        changed.insert(at, changed[at])
    elif how == "cut":  # the newest records, however many
        changed = changed[:at]
    elif how == "move":
        other_name = data.draw(st.sampled_from(names))
        assume(other_name != name)
        del changed[at]
        changed.append((other_name, line))
    else:
        changed = [pair for pair in changed if pair[0] != name]
    made = {**chain, **dict.fromkeys(names, b"")}
    for file, text in changed:
        made[file] += text
    order = [name for name in names if name != LOG] + [LOG]
    assume(b"".join(made[name] for name in order) != b"".join(chain[name] for name in order))
    with a_copy(made) as folder, pytest.raises(AuditError):
        verify(folder)
