"""Starts the demo's programs as a person would, and asks them over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def program(module: str, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`python -m MODULE … --listen 127.0.0.1:0`; its URL, taken from the first line it prints."""
    command = [sys.executable, "-m", module, *arguments, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert " listens on http://" in first, first
            yield first.split()[-1], process
        finally:
            process.kill()


def call(
    url: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Status, content type and text of a GET, or of a POST when there is a body."""
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with _OPENER.open(request, timeout=10.0) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def call_json(url: str, body: bytes | None = None) -> tuple[int, Any]:
    """Status and JSON."""
    status, _kind, text = call(url, body)
    return status, json.loads(text)


def until(what: str, seen: Callable[[], Any], within: float = 20.0) -> Any:
    """The first true answer of `seen`."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if found := seen():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {within} s")
