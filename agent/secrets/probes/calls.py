"""An HTTP call and a command, as probes and those who tell of a change make them.

A command gets no shell, no environment of the agent's (which may hold credentials) and no open
descriptor; what is secret comes to its standard input. At the deadline it and all its children are
killed. What it writes is thrown away: it may be the value.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.http import HttpClient
from agent.secrets.providers.tls import TlsContexts
from agent.units import Seconds

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def call(
    url: str,
    auth: str,
    credential: str,
    ca_file: Path | None,
    deadline: Deadline,
    body: bytes | None = None,
) -> int:
    """The status of a GET, or of a POST where there is a `body`. Raises UnavailableError."""
    parts = urlsplit(url)
    tls = TlsContexts(ca_file=ca_file) if parts.scheme == "https" else None
    client = HttpClient(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", tls=tls)
    headers = {"Connection": "close"}
    if auth == "bearer":
        headers["Authorization"] = f"Bearer {credential}"
    elif auth == "basic":
        headers["Authorization"] = "Basic " + base64.b64encode(credential.encode()).decode()
    if body is not None:
        headers["Content-Type"] = "application/json"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        method = "GET" if body is None else "POST"
        answer = client.request(
            method,
            target,
            headers=headers,
            body=body or b"",
            deadline=deadline,
            repeatable=body is None,
        )
    finally:
        client.close()
    return answer.status


def run(
    command: Sequence[str], given: bytes, environment: Mapping[str, str], within: Seconds
) -> str:
    """Why the command failed; empty where it ended with 0. Raises OSError where it is none."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": _PATH, **environment},
        cwd="/",
        start_new_session=True,
    )
    try:
        process.communicate(given, timeout=max(0.001, within))
    except subprocess.TimeoutExpired:
        return f"{command[0]} took longer than {within:g} s"
    finally:
        # the group's number is the leader's, which stays taken until the leader is waited for
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
    if process.returncode == 0:
        return ""
    code = process.returncode
    how = f"ended with {code}" if code > 0 else f"was killed by signal {-code}"
    return f"{command[0]} {how}"
