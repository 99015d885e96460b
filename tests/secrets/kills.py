"""Kill a program at every system call that changes something, one run a call.

The program marks the stretch of interest by a getpriority before and one after it. A first run is
traced whole; each changing call within the stretch is then named by its ordinal, and strace sends
SIGKILL on entering it. Between two changing calls the disk does not move, so this covers every
state that a kill can leave.
"""

from __future__ import annotations

import collections
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

_CALL = re.compile(r"^(?:\d+\s+)?(\w+)\((.*)")
_CHANGES = (
    *("mkdir", "mkdirat", "write", "pwrite64", "fchmod", "chmod", "fchmodat", "fchown", "fsync"),
    *("rename", "renameat", "renameat2", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir"),
)


def _works() -> bool:
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return tried.returncode == 0


needs_strace = pytest.mark.skipif(not _works(), reason="strace is missing or may not trace")


def killed_at_every_change(
    program: str, arguments: Sequence[str], restore: Callable[[], None]
) -> Iterator[str]:
    """Yield after each kill, naming the call; `restore` puts the ground back before each run."""
    command = [sys.executable, "-c", program, *arguments]
    restore()
    subprocess.run(command, check=True)  # byte code is compiled: runs are alike from now on
    restore()
    for call, ordinal in _changes(command):
        restore()
        injected = f"inject={call}:signal=KILL:when={ordinal}"
        done = subprocess.run(
            ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", injected, *command],
            check=False,
            capture_output=True,
        )
        assert done.returncode in (-9, 137), (call, ordinal, done.returncode, done.stderr[-500:])
        yield f"{call} number {ordinal}"


def _changes(command: list[str]) -> list[tuple[str, int]]:
    with tempfile.NamedTemporaryFile("r") as log:
        subprocess.run(["strace", "-f", "-o", log.name, *command], check=True)
        lines = Path(log.name).read_text().splitlines()
    counts: collections.Counter[str] = collections.Counter()
    inside, found = False, []
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            continue
        call, told = match.groups()
        counts[call] += 1
        if call == "getpriority":
            inside = not inside
        elif inside and (call in _CHANGES or (call == "openat" and "O_CREAT" in told)):
            found.append((call, counts[call]))
    assert len(found) > 5, "the stretch of interest was not found"
    return found
