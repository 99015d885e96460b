"""The trader's own word on how it is: its /health, asked and judged.

`judge` is pure: a status and a body become an `Answer` that names each indicator that is missing or
false. `TraderProbe.ask` does the one request: a deadline over the whole of it, no redirect, no
retry, at most 64 KiB. It never raises for what the trader does; not to answer is an answer.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass

import urllib3
from urllib3.exceptions import HTTPError

from agent.configpod import TraderHealth

_LARGEST = 64 * 1024
_CHUNK = 8 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request found. `why` is empty when all is well."""

    ok: bool
    why: str = ""
    version: str | None = None
    heard: bool = True
    """Whether anything answered at all."""


def judge(status: int, body: bytes, config: TraderHealth) -> Answer:
    """Read an answer of the trader's: well only with status 200 and every indicator true."""
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        return Answer(ok=False, why=f"status {status}, and the body is no JSON object")
    named = tree.get(config.version_field)
    version = named if isinstance(named, str) else None
    faults = []
    for name in config.required:
        if name not in tree:
            faults.append(f"{name} is missing")
        elif tree[name] is not True:
            faults.append(f"{name} is {json.dumps(tree[name])[:40]}")
    if status != 200:
        faults.insert(0, f"status {status}")
    return Answer(ok=not faults, why=", ".join(faults), version=version)


class TraderProbe:
    """Asks one trader. Safe from any thread."""

    def __init__(self, config: TraderHealth) -> None:
        self.config = config
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=2, retries=False)

    def ask(self) -> Answer:
        """One request. Blocks for at most about twice `config.timeout`."""
        config = self.config
        deadline = time.monotonic() + config.timeout
        try:
            response = self._pool.request(
                "GET",
                config.url,
                timeout=urllib3.Timeout(total=config.timeout),
                redirect=False,
                preload_content=False,
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            )
        except HTTPError as error:
            why = f"{config.url} does not answer: {_plain(error)}"
            return Answer(ok=False, why=why, heard=False)
        try:
            return self._read(response, deadline)
        except HTTPError as error:
            return Answer(ok=False, why=f"the answer broke off: {_plain(error)}")
        finally:
            response.close()

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> Answer:
        body = b""
        while chunk := response.read1(_CHUNK):
            body += chunk
            if len(body) > _LARGEST:
                return Answer(ok=False, why=f"the answer is longer than {_LARGEST} bytes")
            if time.monotonic() > deadline:
                return Answer(ok=False, why=f"no whole answer within {self.config.timeout:g} s")
        return judge(response.status, body, self.config)

    def close(self) -> None:
        """Let go of the pool."""
        self._pool.clear()


def _plain(error: HTTPError) -> str:
    """The cause without urllib3's name of the connection, which its releases write in two ways."""
    text = str(error.args[-1] if error.args else error)
    return re.sub(r"^(<.*?>|\w+\(.*?\)): ", "", text)
