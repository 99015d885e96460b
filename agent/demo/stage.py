"""Where the demo happens: its folders, its programs, and the end of both.

Files live in a folder of mode 0700 below the temporary directory, secrets in one on a tmpfs that
every Linux user has: $XDG_RUNTIME_DIR where it is one, else /dev/shm. (A pod mounts a tmpfs of its
own; without root nobody can.) A story holds a lock in each of its folders; a folder whose lock is
free belongs to a killed story and is swept at the next start. Programs get SIGTERM from the kernel
when the story dies, so that none outlives it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from agent import fs
from agent.errors import UsageError

_LOCK = "story.lock"
_PR_SET_PDEATHSIG = 1
_MARK = f"jules-agent-demo-{os.getuid()}-"
_TMPFS = ("tmpfs", "ramfs")


@dataclass(slots=True)
class Stage:
    """The folders of one story and the programs that run on them."""

    work: Path
    memory: Path
    memory_type: str
    keep: bool
    swept: int = 0
    locks: list[int] = field(default_factory=list)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.work / "agent.yaml"

    @property
    def secrets(self) -> Path:
        return self.memory / "secrets"

    @property
    def models(self) -> Path:
        return self.work / "models"

    @property
    def store(self) -> Path:
        return self.work / "store"

    @property
    def in_memory(self) -> bool:
        """Whether the secrets' folder never reaches a disk."""
        return self.memory_type in _TMPFS

    def log(self, name: str) -> Path:
        """The file that holds what the program `name` wrote."""
        return self.work / f"{name}.log"

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def command(self, *arguments: str, value: bytes | None = None, timeout: float = 60.0) -> str:
        """Run one `jules-agent` command to its end, `value` on its standard input; its output.

        Raises:
            CommandError: it ended with another code than 0, or not in time.
        """
        try:
            done = subprocess.run(
                [sys.executable, "-m", "agent", *arguments],
                input=value if value is not None else b"",
                capture_output=True,
                timeout=timeout,
                cwd=self.work,
                env=self._environ(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandError(f"`jules-agent {arguments[0]}` took over {timeout:.0f} s") from None
        if done.returncode:
            told = done.stderr.decode(errors="replace").strip() or "no message"
            named = " ".join(arguments[:2])
            raise CommandError(f"`jules-agent {named}` ended with {done.returncode}: {told}")
        return done.stdout.decode(errors="replace")

    def start(self, name: str, *arguments: str) -> None:
        """Start `python -m …`; its output goes to the log of `name`."""
        with open(self.log(name), "ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.work,
                env=self._environ(),
                start_new_session=True,  # Ctrl-C is for the story, which ends the others in order
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - the story has one thread
            )

    def dead(self) -> str | None:
        """The first program that has ended by itself, and how; None while all run."""
        for name, process in self._running.items():
            if process.poll() is not None:
                return f"the {name} ended with {process.returncode}"
        return None

    def close(self) -> None:
        """SIGTERM to every program, last started first; wait; remove what is not to be kept.

        A KeyboardInterrupt meanwhile kills what is left.
        """
        try:
            for process in reversed(self._running.values()):
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10.0)
        except KeyboardInterrupt:
            pass
        finally:
            for process in self._running.values():
                if process.poll() is None:
                    process.kill()
                    process.wait()
            self._running.clear()
            shutil.rmtree(self.memory, ignore_errors=True)
            if not self.keep:
                _remove(self.work)
            for lock in self.locks:
                os.close(lock)
            self.locks.clear()

    def _environ(self) -> dict[str, str]:
        """The environment less what would override the demo's own configuration."""
        from agent.configload import SEED_VARIABLES

        left_out = {*SEED_VARIABLES, "PAGERDUTY_INTEGRATION_KEY", "SLACK_WEBHOOK_URL"}
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in left_out and not name.startswith("JULES_")
        }
        checkout = str(Path(__file__).resolve().parents[2])
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [checkout, kept.get("PYTHONPATH")]))
        return kept


class CommandError(Exception):
    """A command of the story failed; the message says which and what it said."""


def set_up(keep: Path | None) -> Stage:
    """Sweep what killed stories left and make this story's folders.

    Raises:
        UsageError: `keep` names a folder that is not empty.
    """
    memory_root = _memory_root()
    temporary = Path(tempfile.gettempdir())
    swept = sum(_sweep(root) for root in {memory_root, temporary})
    if keep is not None:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise UsageError(f"{keep} is not empty", "name a new folder with --keep")
        work = keep
    else:
        work = Path(tempfile.mkdtemp(prefix=_MARK, dir=temporary))
    memory = Path(tempfile.mkdtemp(prefix=_MARK, dir=memory_root))
    stage = Stage(work, memory, fs.filesystem_type(memory), keep is not None, swept)
    stage.locks.extend(filter(None, map(_locked, (work, memory))))
    stage.secrets.mkdir(mode=0o700)
    return stage


def _memory_root() -> Path:
    named = os.environ.get("XDG_RUNTIME_DIR")
    for candidate in (named, "/dev/shm"):  # noqa: S108 - the folder made in it is 0700 and random
        if candidate and os.access(candidate, os.W_OK | os.X_OK):
            path = Path(candidate)
            if path.is_dir() and fs.filesystem_type(path) in _TMPFS:
                return path
    return Path(tempfile.gettempdir())


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None when another story holds it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(folder / _LOCK, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _sweep(root: Path) -> int:
    """Remove the folders of this user's killed stories below `root`; how many there were."""
    count = 0
    for folder in root.glob(f"{_MARK}*"):
        try:
            seen = folder.lstat()
            young = time.time() - seen.st_mtime < 10.0 and not (folder / _LOCK).exists()
            if seen.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink() or young:
                continue
            lock = _locked(folder)
        except OSError:
            continue
        if lock is not None:
            _remove(folder)
            os.close(lock)
            count += 1
    return count


def _remove(folder: Path) -> None:
    """Remove a tree whose folders may be read-only, as staged bundles are."""
    for path, _, _ in os.walk(folder):
        with suppress(OSError):
            os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _die_with_parent() -> None:
    """In the child, before exec: SIGTERM when the parent dies (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    """Refuse a port that is taken.

    Raises:
        UsageError: another program listens there, or this user may not.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError:
            raise UsageError(f"{port} is not a port", "name one from 1 to 65535") from None
        except OSError as error:
            raise UsageError(
                f"port {port} of 127.0.0.1 cannot be used: {error.strerror}",
                "name another with --port, or --port 0 for any free one",
            ) from None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, timeout: float = 2.0) -> Any:
    """The JSON at `url`, whatever its status; None while nobody answers with JSON."""
    try:
        with _open(url, None, timeout) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError):
        return None


def post(url: str, timeout: float = 2.0) -> Any:
    """POST nothing to `url` and return its JSON.

    Raises:
        OSError: nobody answered.
    """
    with _open(url, b"", timeout) as answer:
        return json.loads(answer.read())


def _open(url: str, data: bytes | None, timeout: float) -> IO[bytes]:
    try:
        opened: IO[bytes] = _OPENER.open(urllib.request.Request(url, data=data), timeout=timeout)
        return opened
    except urllib.error.HTTPError as error:
        return error
