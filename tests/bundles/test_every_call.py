"""Kill -9, a full disk and a broken disk at each call of a whole agent's deployment.

By default every third (kill), eighth and seventh call is hit, for the sake of the clock;
JULES_EVERY_CALL=all hits each one in all three ways.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "faults" / "callfaults.c"
ALL = os.environ.get("JULES_EVERY_CALL") == "all"


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    target = tmp_path_factory.mktemp("faults") / "callfaults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return target


@pytest.mark.parametrize(
    ("mode", "first", "stride"),
    [
        ("kill", 1, 1 if ALL else 3),
        ("ENOSPC", 1, 1 if ALL else 8),
        ("EIO", 1, 1 if ALL else 7),
    ],
)
def test_whatever_call_is_hit_the_next_start_finds_a_whole_version_and_tells_the_truth(
    preload: Path, mode: str, first: int, stride: int
) -> None:
    """`everycall` looks at links, bytes, history, audit chain and leftovers after every case."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bundles.everycall", mode, str(first), str(stride)],
        env={**os.environ, "LD_PRELOAD": str(preload)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["calls"] is not None, "it never ran to its end without being hit"
    assert told["calls"] > 80, "fewer calls than a deployment makes: they are not counted"
    assert told["v1"] + told["v2"] >= told["cases"]
