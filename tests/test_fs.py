"""Durable file primitives on a real file system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent import fs
from agent.errors import BusyError


def test_a_write_replaces_the_file_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "state"
    fs.write_durable(path, b"one", 0o600)
    fs.write_durable(path, b"two", 0o440)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o440
    assert os.listdir(tmp_path) == ["state"]


def test_a_write_that_fails_leaves_the_file_and_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    fs.write_durable(path, b"one")

    def no_space(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        fs.write_durable(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["state"]


def test_a_link_is_flipped_in_one_step_and_a_killed_attempt_does_not_wedge_it(
    tmp_path: Path,
) -> None:
    link = tmp_path / "current"
    fs.replace_link(link, "v1")
    (tmp_path / (fs.TEMP_PREFIX + "left-by-a-kill")).symlink_to("v2")
    fs.replace_link(link, "v2")
    assert fs.read_link(link) == "v2"
    assert fs.sweep(tmp_path) == [fs.TEMP_PREFIX + "left-by-a-kill"]
    assert os.listdir(tmp_path) == ["current"]


def test_no_link_reads_as_none_and_neither_does_a_file(tmp_path: Path) -> None:
    assert fs.read_link(tmp_path / "none") is None
    (tmp_path / "file").write_text("x")
    assert fs.read_link(tmp_path / "file") is None


def test_a_lock_is_held_against_other_processes_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib\nfrom agent import fs\n"
            "with fs.lock(pathlib.Path(sys.argv[1]), 'work'):\n"
            "    print('held', flush=True)\n    sys.stdin.read()\n",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="work is already under way"), fs.lock(path, "work"):
            pytest.fail("two holders at once")
        holder.kill()
        holder.wait(10)
        with fs.lock(path, "work"):
            pass


def test_the_type_of_a_file_system_is_told() -> None:
    assert fs.filesystem_type(Path("/dev/shm")) == "tmpfs"
    assert fs.filesystem_type(Path("/proc")) == "proc"
