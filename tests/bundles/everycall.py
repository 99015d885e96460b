"""A whole agent deploys v2 over v1 and is hit at its n-th call into the file system, for every n.

Run with `callfaults.c` preloaded. Everything is imported once; each case is two forked children:
one that is hit, one that starts afterwards as if nothing had been. In between, and at the end, the
disk is looked at byte by byte.

    python -m tests.bundles.everycall kill|ENOSPC|EIO FIRST STRIDE [MOST]

The last line that it prints is JSON.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from agent import audit
from agent.bundles.layout import AGENT_LOCK, Layout
from agent.bundles.verified import Verified, verify
from agent.config import Config
from agent.daemon import Daemon
from agent.errors import AgentError
from agent.fs import TEMP_PREFIX
from tests.bundles.made import ask_for, published
from tests.faults.trader import TraderStub

LONGEST = 20.0
_UNHIT = 50
"""A child's code when it made fewer calls than the one that should have been hit."""
_ENDED = ("ACTIVE", "FAILED", "ROLLED_BACK")


def config(place: Path, trader: str) -> Config:
    return Config.model_validate(
        {
            "state_dir": place / "state",
            "grace_period": 5,
            "log": {"level": "error", "format": "json"},
            "web": {"listen": "127.0.0.1:0"},
            "secrets": {"enabled": False},
            "alerts": {"enabled": False},
            "bundles": {
                "root": place / "models",
                "channel": "test",
                "require_manifest": True,
                "store": {"path": place / "store", "poll": 0.1},
                "health": {"url": trader, "interval": 0.02, "adopt_within": 5},
                "bake": {"duration": 0.02, "interval": 0.01},
                "limits": {"headroom": 0},
                "retention": {"keep": 2, "hours": 0, "evidence_hours": 0},
                "settle": 0.01,
            },
        }
    )


def serve(
    place: Path, trader: str, *, arm: Callable[[], None], until: Callable[[Any], bool]
) -> int:
    """One agent, from its building to its leave; 0 when `until` was met."""
    code = 3

    async def work() -> None:
        nonlocal code
        arm()
        daemon = Daemon(config(place, trader))

        async def watch() -> None:
            nonlocal code
            deadline = time.monotonic() + LONGEST
            while time.monotonic() < deadline:
                if daemon.bundles is not None and until(daemon.bundles):
                    code = 0
                    break
                await asyncio.sleep(0.005)
            os.kill(os.getpid(), signal.SIGTERM)

        watching = asyncio.create_task(watch())
        await daemon.run()
        watching.cancel()

    with suppress(AgentError, OSError, sqlite3.Error):
        asyncio.run(work())
    return code


def settled(job: Any) -> bool:
    """Nothing rolls, nothing is open, and the channel's wish is live or known to be bad."""
    if job.rollouts.rolling is not None or job.desired is None:
        return False
    newest = job.tools.history.recent(1)
    if not newest or newest[0].state.name not in _ENDED:
        return False
    live = job.tools.layout.live()
    return live == "v2" or "quarantine" in (job.waiting or "")


def first_is_live(job: Any) -> bool:
    """v1 has been rolled out."""
    return any(item["state"] == "ACTIVE" for item in job.history(1))


def child(work: Callable[[], int]) -> int:
    """Run `work` in a fork: its code, or minus the signal that ended it."""
    number = os.fork()
    if number == 0:
        code = 9
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def sound(place: Path) -> str:
    """The live version, every byte of it compared; raises RejectedError."""
    layout = Layout(place / "models")
    live = layout.live()
    assert live is not None, "there is no current"
    verify(layout.folder(live), layout.require(live), Verified())
    return live


def truth(place: Path) -> None:
    """History, links, leftovers and audit chain agree with one another."""
    layout = Layout(place / "models")
    live = layout.live()
    with closing(sqlite3.connect(place / "state" / "state.db")) as db:
        rows = db.execute("SELECT version, state FROM bundle_rollouts ORDER BY id DESC").fetchall()
    assert all(state in _ENDED for _, state in rows), rows
    newest: dict[str, str] = {}
    for version, state in rows:
        newest.setdefault(version, state)
    assert newest[str(live)] == "ACTIVE", (live, rows)
    previous = layout.version_at(layout.previous)
    assert previous is None or (previous != live and layout.flaw(previous) is None)
    assert set(os.listdir(layout.staging)) <= {"lock", AGENT_LOCK}, os.listdir(layout.staging)
    names = [*os.listdir(layout.root), *os.listdir(place / "state")]
    assert not [name for name in names if name.startswith(TEMP_PREFIX)], names
    for version in layout.versions():
        assert layout.flaw(version) is None, layout.flaw(version)
    audit.verify(place / "state")


class Sweep:
    """Case after case, until one ends without having been hit."""

    def __init__(self, mode: str, folder: Path) -> None:
        self._error = 0 if mode == "kill" else getattr(errno, mode)
        self._faults = ctypes.CDLL(None)
        self._template, self._place = folder / "template", folder / "case"
        self._trader = TraderStub()
        self._trader.version = self._adopted
        self.told: dict[str, Any] = {"mode": mode, "cases": 0, "calls": None, "worst": 0.0}
        self.told |= {"v1": 0, "v2": 0}

    def prepare(self) -> None:
        """v1 is live and the channel asks for v2."""
        self._template.mkdir()
        published(self._template, "v1")
        self._place = self._template
        assert child(lambda: self._serve(first_is_live)) == 0, "v1 did not go live"
        ask_for(self._template, published(self._template, "v2", "parked", note="2"))
        self._place = self._template.parent / "case"

    def case(self, number: int) -> bool:
        """Hit call `number`, start anew, look; whether it was hit at all."""
        shutil.copytree(self._template, self._place, symlinks=True)
        code = child(lambda: self._struck(number))
        assert code in (0, 3, _UNHIT, -signal.SIGKILL), (number, code)
        sound(self._place)
        began = time.monotonic()
        again = child(lambda: self._serve(settled))
        self.told["worst"] = max(self.told["worst"], time.monotonic() - began)
        assert again == 0, (number, again)
        self.told[sound(self._place)] += 1
        truth(self._place)
        shutil.rmtree(self._place)
        return code != _UNHIT

    def close(self) -> None:
        self._trader.close()

    def _serve(self, until: Callable[[Any], bool], number: int = 0) -> int:
        def arm() -> None:
            if number:
                self._faults.faults_arm(number, self._error)

        return serve(self._place, self._trader.url, arm=arm, until=until)

    def _struck(self, number: int) -> int:
        code = self._serve(settled, number)
        return code if self._faults.faults_spent() else _UNHIT

    def _adopted(self) -> str:
        return os.path.basename(os.readlink(self._place / "models" / "current"))


def main(mode: str, first: int, stride: int, most: int) -> dict[str, Any]:
    """Every `stride`-th call from `first` on, at most `most` cases."""
    folder = Path(tempfile.mkdtemp(prefix="jules-everycall-"))
    sweep = Sweep(mode, folder)
    try:
        sweep.prepare()
        for number in range(first, first + stride * most, stride):
            if not sweep.case(number):
                sweep.told["calls"] = number - 1
                break
            sweep.told["cases"] += 1
        return sweep.told
    finally:
        sweep.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    wanted = [*sys.argv[1:], "100000"]
    print(json.dumps(main(wanted[0], int(wanted[1]), int(wanted[2]), int(wanted[3]))))
