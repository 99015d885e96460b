"""What every benchmark shares: bars, their table, and the closing line.

A bar is a figure, its bound and the value measured just now. A benchmark exits 0 only when every
bar holds, and ends with one line `bars: N held, M short`.

"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise: `measured` must be below `bound`, both in `unit`; `beside` is what it is told
    next to (a peer, a floor)."""

    what: str
    measured: float
    bound: float
    unit: str
    beside: str = ""

    @property
    def held(self) -> bool:
        return self.measured < self.bound


@dataclass(frozen=True, slots=True)
class Run:
    """One finished process: wall seconds, CPU seconds, peak resident MiB."""

    wall: float
    cpu: float
    peak: float


def arguments(doc: str | None) -> argparse.Namespace:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under 50 s")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to FILE")
    return parser.parse_args()


def timed(command: Sequence[str], environment: dict[str, str] | None = None) -> Run:
    """Run a command to its end, by the kernel's own account of it (wait4).

    Raises:
        RuntimeError: it ended with another code than 0.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {told.decode()[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def finish(name: str, bars: Sequence[Bar], options: argparse.Namespace) -> int:
    """Print the table and the closing line; return the exit code."""
    width = max(len(bar.what) for bar in bars)
    print(f"{name}")
    for bar in bars:
        verdict = "held" if bar.held else "SHORT"
        beside = f"   ({bar.beside})" if bar.beside else ""
        print(
            f"  {bar.what.ljust(width)}  {bar.measured:9.2f} {bar.unit:<4} "
            f"bar < {bar.bound:g} {bar.unit:<4} {verdict}{beside}"
        )
    if options.json:
        tree = [{**asdict(bar), "held": bar.held} for bar in bars]
        Path(options.json).write_text(json.dumps({"benchmark": name, "bars": tree}, indent=2))
    held = sum(bar.held for bar in bars)
    print(f"bars: {held} held, {len(bars) - held} short")
    return 0 if held == len(bars) else 1


def compiled() -> None:
    """Byte-compile the checkout, as an image does: a cold compile is not what is measured."""
    here = Path(__file__).resolve().parent.parent / "agent"
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(here)], check=True)
