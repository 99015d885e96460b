"""The audit chain finds every edit, survives a kill, and is shared by processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.audit import AuditError, AuditLog, verify
from tests.faults.clock import FakeClock


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
