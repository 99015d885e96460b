"""Tell the trader that another version is live: a command, an HTTP POST or a signal, once.

Each is done at most once for a flip, which `progress` writes down before it begins: nothing here
tries again. A command gets no shell, no environment of the agent's (which may hold credentials) and
no open descriptor; what it wrote is told where it failed, scrubbed of secrets. At the deadline it
and all its children are killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.bundles.errors import RolloutError
from agent.configrollouts import OnFlip, Signal
from agent.telemetry.redaction import REDACTOR
from agent.units import Seconds, Version

_SHOWN = 300
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Flip:
    """What the trader is told."""

    version: Version
    before: Version | None
    folder: Path


def tell(hook: OnFlip, flip: Flip) -> str:
    """Tell it; returns what was done, in words. Blocks for at most about the deadline.

    Raises:
        RolloutError: the trader was not told, or said no.
    """
    if hook.command is not None:
        return _run(hook.command, flip, hook.deadline)
    if hook.url is not None:
        return _post(hook.url, flip, hook.deadline)
    assert hook.signal is not None
    return _signal(hook.signal)


def _run(command: tuple[str, ...], flip: Flip, deadline: Seconds) -> str:
    environment = {
        "PATH": _PATH,
        "JULES_VERSION": flip.version,
        "JULES_PREVIOUS_VERSION": flip.before or "",
        "JULES_BUNDLE": str(flip.folder),
    }
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise RolloutError(f"on_flip: {command[0]}: {error.strerror}") from None
        try:
            code = process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise RolloutError(f"on_flip: {command[0]} took longer than {deadline:g} s") from None
        finally:
            # the group's number is the leader's, which stays taken until the leader is waited for;
            # a child that outlives a leader which ended by itself is meant to
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code != 0:
            how = f"ended with {code}" if code > 0 else f"was killed by signal {-code}"
            raise RolloutError(f"on_flip: {command[0]} {how}{_last_words(output.fileno())}")
    return f"{command[0]} ended with 0"


def _last_words(fd: int) -> str:
    end = os.fstat(fd).st_size
    lines = os.pread(fd, 4096, max(0, end - 4096)).decode(errors="replace").split("\n")
    text = next((line.strip() for line in reversed(lines) if line.strip()), "")
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f": {REDACTOR.scrub(text)[-_SHOWN:]}" if text else ""


def _post(url: str, flip: Flip, deadline: Seconds) -> str:
    import urllib3
    from urllib3.exceptions import HTTPError

    place = urlsplit(url).netloc.rpartition("@")[2]  # the rest of an address may be a credential
    body = {"version": flip.version, "previous": flip.before, "bundle": str(flip.folder)}
    with urllib3.PoolManager(num_pools=1, retries=False) as pool:
        try:
            response = pool.request(
                "POST",
                url,
                body=json.dumps(body).encode(),
                headers={"Content-Type": "application/json", "Connection": "close"},
                timeout=urllib3.Timeout(total=deadline),
                redirect=False,
                preload_content=False,
            )
        except HTTPError as error:
            text = str(error.args[-1] if error.args else error)
            raise RolloutError(f"on_flip: {place}: {text.rpartition('>: ')[2] or text}") from None
        status = response.status
        response.close()
    if not 200 <= status < 300:
        raise RolloutError(f"on_flip: {place} answered {status}")
    return f"{place} answered {status}"


def _signal(wanted: Signal) -> str:
    try:
        pid = int(Path(wanted.pid_file).read_text()[:20])
    except (OSError, ValueError):
        raise RolloutError(
            f"on_flip: {wanted.pid_file} holds no process number", "let the trader write it"
        ) from None
    if pid <= 1:
        raise RolloutError(f"on_flip: {wanted.pid_file} names process {pid}, which is no trader")
    try:
        os.kill(pid, signal.Signals[wanted.name])
    except OSError as error:
        raise RolloutError(f"on_flip: process {pid} gets no signal: {error.strerror}") from None
    return f"{wanted.name} to process {pid}"
