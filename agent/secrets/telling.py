"""Tell those who asked for it that other secrets are published: once for each generation.

A generation is known by its index, which no other one shares, so that number 3 of a new pod is not
taken for number 3 of the old. What is begun and what is done is written to `told.json` in the state
folder, synced, before and after:
1. a generation that was flipped is noted with everybody who is to be told
2. before a try its number is noted; after a success it is done, and never done again
3. a try that failed (no process, another status than 2xx, a command that did not end with 0) is
   repeated after a growing pause, up to `tries`
4. after a restart, a try that had begun and has no end counts as done: twice would be worse
5. a newer generation takes the place of an older one that could not be told
The first generation that is met in a directory is no change, and nobody is told of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import fs
from agent.clock import Clock
from agent.configrotation import OnChange, Process
from agent.errors import AgentError
from agent.health import Condition
from agent.secrets.generation import Published
from agent.secrets.links import DATA
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.vault.kv import UNVERSIONED
from agent.secrets.tree import INDEX
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Monotonic, Seconds

_log = get_logger(__name__)

FILE = "told.json"
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Teller:
    """What is to be told of the newest generation. Safe from any thread."""

    def __init__(
        self,
        state: Path | None,
        recorder: Recorder,
        clock: Clock,
        roll: Callable[[], float] = random.random,
    ) -> None:
        """Without a `state` folder nothing is remembered across a restart."""
        self._path = state / FILE if state is not None else None
        self._recorder, self._clock, self._roll = recorder, clock, roll
        self._lock = threading.Lock()
        self._hooks: dict[str, OnChange] = {}
        self._due: dict[str, Monotonic] = {}
        self._failed: dict[str, str] = {}
        self._memory: dict[str, Any] = self._read()
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def notice(self, directory: Path, hooks: Sequence[OnChange], published: Published) -> None:
        """Note what is live now; those who are to be told of it are, by `run`. Blocks for a sync
        where something changed."""
        if not hooks and not self._hooks:
            return
        mark, versions, place = _identity(directory)
        if mark is None:
            return
        with self._lock:
            self._hooks = {_key(hook): hook for hook in hooks}
            memory = self._memory
            if memory.get("place") != place:  # the first one here: no change
                self._memory = _record(place, mark, published.generation, versions)
                self._save()
                self._due, self._failed = {}, {}
                return
            if memory.get("mark") != mark:
                changed = sorted(
                    name
                    for name in {**versions, **memory["versions"]}
                    if versions.get(name) != memory["versions"].get(name)
                )
                waiting = {
                    key: {"begun": 0, "done": False, "names": changed}
                    for key, hook in self._hooks.items()
                    if set(hook.names or changed) & set(changed)  # none: files were put right
                }
                self._memory = _record(place, mark, published.generation, versions, waiting)
                self._save()
                self._due, self._failed = {}, {}
            for key, entry in self._memory["waiting"].items():
                if not entry["done"] and key in self._hooks and key not in self._due:
                    self._due[key] = self._clock.monotonic()
            pending = bool(self._due)
        if pending and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Tell what is due, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = self._clock.monotonic()
            with self._lock:
                ready = [key for key, at in self._due.items() if at <= now]
                pause = min((at - now for at in self._due.values() if at > now), default=3600.0)
            if ready:
                await asyncio.gather(*(asyncio.to_thread(self.tell, key) for key in ready))
                continue
            waiting = asyncio.ensure_future(self._wake.wait())
            timer = asyncio.ensure_future(self._clock.sleep(Seconds(pause)))
            try:
                await asyncio.wait((waiting, timer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                timer.cancel()

    def tell(self, key: str) -> None:
        """One try."""
        with self._lock:
            hook, entry = self._hooks.get(key), self._memory["waiting"].get(key)
            self._due.pop(key, None)
            if hook is None or entry is None or entry["done"]:
                return
            mark, generation = self._memory["mark"], self._memory["generation"]
            entry["begun"] += 1
            tries = entry["begun"]
            entry["open"] = True
            if not self._save():
                entry["open"] = False
                entry["begun"] -= 1
                self._due[key] = Monotonic(self._clock.monotonic() + _FIRST_PAUSE)
                return  # what cannot be noted is not begun: it could be done twice
        why = _tell(hook, generation, entry["names"])
        self._recorder.inc("secret_changes_told_total", outcome="failed" if why else "ok")
        with self._lock:
            if self._memory["mark"] != mark:
                return
            entry["open"] = False
            entry["done"] = not why or tries >= hook.tries
            if not why:
                self._failed.pop(key, None)
                _log.info("told of new secrets", generation=generation, who=_shown(hook))
            else:
                self._failed[key] = why
                _log.warning("could not tell of new secrets", error=why, tries=tries)
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(tries - 1, 16))
                if not entry["done"]:
                    pause *= 0.5 + 0.5 * self._roll()
                    self._due[key] = Monotonic(self._clock.monotonic() + pause)
            self._save()

    def condition(self) -> Condition:
        """Whether everybody was told."""
        with self._lock:
            why = next(iter(self._failed.values()), "")
        return Condition(
            "secrets-told",
            ok=not why,
            reason=why or "whoever is to be told of new secrets was",
            remedy="mend what is told; the next change tells it again" if why else "",
            gates_ready=False,
        )

    def _read(self) -> dict[str, Any]:
        """What was noted; a try without an end is over."""
        found: dict[str, Any] = {}
        if self._path is not None:
            with suppress(OSError, ValueError):
                found = json.loads(self._path.read_bytes())
        try:
            made = _record(
                str(found["place"]),
                str(found["mark"]),
                int(found["generation"]),
                dict(found["versions"]),
                dict(found["waiting"]),
            )
            for entry in made["waiting"].values():
                entry["done"] = bool(entry["done"]) or bool(entry.pop("open", False))
                entry["begun"], entry["names"] = int(entry["begun"]), list(entry["names"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}
        return made

    def _save(self) -> bool:
        if self._path is None:
            return True
        try:
            fs.write_durable(self._path, json.dumps(self._memory).encode())
        except OSError as error:
            _log.error("who was told of new secrets cannot be noted", error=error.strerror)
            return False
        return True


def _record(
    place: str,
    mark: str,
    generation: int,
    versions: dict[str, str],
    waiting: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "place": place,
        "mark": mark,
        "generation": generation,
        "versions": versions,
        "waiting": waiting or {},
    }


def _identity(directory: Path) -> tuple[str | None, dict[str, str], str]:
    """The live generation's mark, each secret's version and digests, and the directory's own."""
    try:
        data = (directory / DATA / INDEX).read_bytes()
        seen = directory.stat()
        tree = json.loads(data)
    except (OSError, ValueError):
        return None, {}, ""
    versions: dict[str, str] = {}
    files = tree.get("files", tree)
    for path, told in sorted(files.items() if isinstance(files, dict) else ()):
        if isinstance(told, dict) and "replaced_at" not in told:
            name = str(told.get("name", path))
            version = f"{told.get('provider')} {told.get('version')}"
            if told.get("version") == UNVERSIONED:
                version += f" {told.get('digest')}"
            versions[name] = version
    return hashlib.sha256(data).hexdigest()[:32], versions, f"{seen.st_dev}:{seen.st_ino}"


def _key(hook: OnChange) -> str:
    told = json.dumps(hook.model_dump(mode="json"), sort_keys=True)  # an address is not shown
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _shown(hook: OnChange) -> str:
    if hook.command is not None:
        return hook.command[0]
    if hook.url is not None:
        return hook.url.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2]
    assert hook.signal is not None
    return f"{hook.signal.name} to {hook.signal.pid_file or hook.signal.exe}"


def _tell(hook: OnChange, generation: int, names: Sequence[str]) -> str:
    """Why it could not be told; empty where it was."""
    from agent.secrets.probes.calls import call, run

    try:
        if hook.command is not None:
            about = {"JULES_GENERATION": str(generation), "JULES_SECRETS": " ".join(names)}
            why = run(hook.command, b"", about, hook.deadline)
            return f"on_change: {why}" if why else ""
        if hook.url is not None:
            body = json.dumps({"generation": generation, "secrets": list(names)}).encode()
            status = call(hook.url, "none", "", None, Deadline(hook.deadline), body)
            ok = 200 <= status < 300
            return "" if ok else f"on_change: {_shown(hook)} answered {status}"
        assert hook.signal is not None
        return _signal(hook.signal)
    except AgentError as error:
        return f"on_change: {error}"
    except OSError as error:
        return f"on_change: {_shown(hook)}: {error.strerror}"


def _signal(wanted: Process) -> str:
    number = signal.Signals[wanted.name]
    sent = 0
    for pid in _processes(wanted):
        with suppress(ProcessLookupError):  # it has just ended, and so needs to be told of nothing
            os.kill(pid, number)
            sent += 1
    where = wanted.pid_file or wanted.exe
    return "" if sent else f"on_change: no process of {where} is there to get {wanted.name}"


def _processes(wanted: Process) -> list[int]:
    if wanted.pid_file is not None:
        with suppress(OSError, ValueError):
            pid = int(wanted.pid_file.read_text(encoding="ascii")[:20])
            return [pid] if pid > 1 else []
        return []
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) not in (1, os.getpid()):
            with suppress(OSError):
                if os.readlink(f"/proc/{entry.name}/exe") == str(wanted.exe):
                    found.append(int(entry.name))
    return found
