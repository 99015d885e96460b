"""The asking side of the admin socket: blocking, standard library only, one question a call.

The agent's refusals come back as the errors that they were, exit code and remedy included, so that
a command ends as it would have ended inside the agent.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.errors import AgentError, Exit, UnreachableError, UsageError
from agent.units import Bytes

ANSWER_LIMIT = Bytes(32 * 1024 * 1024)
"""Longest answer that is read."""


class RemoteError(AgentError):
    """The agent refused, or failed; `exit_code` is the one it named."""

    def __init__(self, message: str, remedy: str, exit_code: Exit) -> None:
        super().__init__(message, remedy)
        self.exit_code = exit_code


def call(
    socket_path: Path, verb: str, arguments: Mapping[str, Any], *, timeout: float
) -> dict[str, Any]:
    """Have the running agent carry out `verb`; return its result.

    `timeout` is in seconds and covers everything, from connecting to the last byte.

    Raises:
        UnreachableError: nobody listens, may be asked, or answers in time.
        RemoteError: the agent said no.
    """
    deadline = time.monotonic() + timeout
    question = json.dumps({"verb": verb, "arguments": dict(arguments)}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        _connect(connection, socket_path)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(question)  # turned away at once: the answer says why
            line = _line(connection, deadline)
        except TimeoutError:
            raise UnreachableError(
                f"the agent did not answer `{verb}` within {timeout:.0f} s",
                "it may still be at work: ask `jules-agent status`, and see its log",
            ) from None
        except OSError as error:
            raise _cut_short(verb, str(error.strerror)) from error
    if not line.endswith(b"\n"):
        raise _cut_short(verb, "the connection was closed")
    return _result(verb, line)


def _connect(connection: socket.socket, path: Path) -> None:
    try:
        connection.connect(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise UnreachableError(
            f"no agent listens on {path}",
            "start one with `jules-agent run`, or name the running one's file with --config",
        ) from None
    except PermissionError:
        raise UnreachableError(
            f"uid {os.geteuid()} may not use {path}",
            "ask as the uid that the agent runs as, or as root",
        ) from None
    except TimeoutError:
        raise UnreachableError(
            f"the agent on {path} takes no connection", "see its log: it may hang"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: {error}", "set web.admin_socket to a shorter path") from error


def _line(connection: socket.socket, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size < ANSWER_LIMIT:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        data = connection.recv(65536)
        parts.append(data)
        size += len(data)
        if not data or data.endswith(b"\n"):
            break
    return b"".join(parts)


def _cut_short(verb: str, why: str) -> UnreachableError:
    return UnreachableError(
        f"the agent gave no answer to `{verb}`: {why}",
        "it may have been stopped: ask `jules-agent status`, and see its log",
    )


def _result(verb: str, line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return dict(answer["result"])
        code = Exit(answer["exit_code"])
        told, remedy = str(answer["error"]), str(answer["remedy"])
    except (ValueError, KeyError, TypeError):
        raise _cut_short(verb, "the answer is not one of jules-agent's") from None
    raise RemoteError(told, remedy, code)
