"""The admin socket: the one way to ask a running agent to change something.

A unix socket, mode 0600, one JSON object a line each way: `{"verb", "arguments"}` is answered by
`{"ok": true, "result"}` or `{"ok": false, "error", "remedy", "exit_code"}`. Only the agent's own
uid and root are heard, by the kernel's word (SO_PEERCRED). When all connections are in use, the one
that has been silent longest gives way. Each connection is its own task: a
deployment that takes minutes holds nobody up, and goes on when the one who asked hangs up.

Start, in an order that leaves no moment at which others may connect or an old file is in the way:
1. refuse to start where another agent answers on the path, or where something is no socket
2. make the socket's mode 0600 before it has a name, bind it to a random name in the same directory
3. listen, then rename it into place: who sees the name can connect
4. sweep what a killed attempt left: sockets of ours that nobody listens on
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from agent import fs
from agent.errors import AgentError, BusyError, Exit, UsageError
from agent.telemetry.logs import get_logger
from agent.telemetry.redaction import REDACTOR
from agent.units import Bytes, Seconds
from agent.web.encode import to_json

_log = get_logger(__name__)

REQUEST_LIMIT = Bytes(64 * 1024)
REQUEST_WITHIN = Seconds(5.0)
ANSWER_WITHIN = Seconds(10.0)
CONNECTIONS = 32

_PATH_LIMIT = Bytes(107)  # sun_path of sockaddr_un, less its NUL: unix(7)
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Verbs(Protocol):
    """What carries the verbs out: the daemon."""

    async def admin(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one verb. Raises AgentError."""
        ...


class _BadRequestError(UsageError):
    """A line that is no request."""

    def __init__(self, what: str) -> None:
        super().__init__(what, 'send one line: {"verb": "status", "arguments": {}}')


class AdminServer:
    """Listens on `path` and hands verbs to `verbs`."""

    def __init__(
        self, path: Path, verbs: Verbs, *, request_within: Seconds = REQUEST_WITHIN
    ) -> None:
        self._path = path
        self._verbs = verbs
        self._request_within = request_within
        self._server: asyncio.Server | None = None
        self._identity: tuple[int, int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent: dict[
            asyncio.StreamWriter, None
        ] = {}  # in the order in which they fell silent
        self._leaving = False

    async def start(self) -> None:
        """Listen.

        Raises:
            BusyError: another agent answers there.
            UsageError: the path is too long, is something else than a socket, or cannot be made.
        """
        try:
            fs.make_dirs_durable(self._path.parent)
            _refuse_taken(self._path)
            await self._listen()
            _sweep(self._path.parent)
        except OSError as error:
            raise UsageError(
                f"admin socket {self._path} cannot be made: {error.strerror or error}",
                "make its directory writable for the agent's uid, or set web.admin_socket",
            ) from error

    async def _listen(self) -> None:
        temp = self._path.parent / fs.temp_name()
        if max(len(os.fsencode(temp)), len(os.fsencode(self._path))) > _PATH_LIMIT:
            raise UsageError(
                f"admin socket {self._path}: its directory's path is too long for a unix socket",
                f"set web.admin_socket to a path of at most {_PATH_LIMIT} bytes",
            )
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Linux gives the name the socket's own mode, so no umask of the whole process changes.
            os.fchmod(listening.fileno(), 0o600)
            listening.bind(os.fspath(temp))
            seen = os.lstat(temp)
            self._identity = (seen.st_dev, seen.st_ino)
            self._server = await asyncio.start_unix_server(
                self._accepted, sock=listening, limit=REQUEST_LIMIT, backlog=64
            )
            os.replace(temp, self._path)
        except BaseException:
            server, self._server = self._server, None
            if server is not None:
                server.close()  # before its socket: the loop still knows that by its number
            listening.close()
            with suppress(FileNotFoundError):
                os.unlink(temp)
            raise

    async def stop(self) -> None:
        """Stop listening, cancel verbs under way and tell their askers so, remove the socket.

        May be called again, and before `start`.
        """
        self._leaving = True
        if self._server is None:
            return
        self._remove()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _remove(self) -> None:
        """Unlink the socket, if the name is still ours."""
        with suppress(OSError):
            seen = os.lstat(self._path)
            if (seen.st_dev, seen.st_ino) == self._identity:
                os.unlink(self._path)

    # -- connections --------------------------------------------------------------------------

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _peer_uid(writer)
        if uid not in (0, os.geteuid()):
            _log.warning("a stranger was turned away from the admin socket", uid=uid)
            writer.transport.abort()
            return
        if self._leaving or (len(self._tasks) >= CONNECTIONS and not self._make_room()):
            busy = BusyError("too many questions at once", "wait for the others to end")
            writer.write(_refusal(busy))
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="admin")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _make_room(self) -> bool:
        for writer in self._silent:
            del self._silent[writer]
            writer.transport.abort()
            return True
        return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, TimeoutError):
            pass  # the asker has gone, or does not take its answer: the verb was carried out
        except asyncio.CancelledError:
            leaving = AgentError("the agent is shutting down", "see `jules-agent bundle history`")
            leaving.exit_code = Exit.UNREACHABLE
            writer.write(_refusal(leaving))
            raise
        except Exception:  # noqa: BLE001 - one connection's trouble never ends the socket
            _log.exception("an admin connection was given up")
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when there will be no other."""
        try:
            self._silent[writer] = None
            try:
                line = await self._read(reader)
            finally:
                self._silent.pop(writer, None)
            if not line:
                return False
            verb, arguments = _parsed(line)
        except _BadRequestError as error:
            await self._write(writer, _refusal(error))
            return False
        await self._write(writer, await self._carry_out(verb, arguments))
        return True

    async def _carry_out(self, verb: str, arguments: Mapping[str, Any]) -> bytes:
        try:
            answer = {"ok": True, "result": await self._verbs.admin(verb, arguments)}
            return to_json(REDACTOR.scrub_tree(answer)) + b"\n"
        except AgentError as error:
            return _refusal(error)
        except Exception:  # noqa: BLE001 - a bug in one verb is an answer, not the end
            _log.exception("an admin verb failed", verb=verb)
            return _refusal(AgentError(f"the agent failed at `{verb}`", "its log says where"))

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        async with asyncio.timeout(ANSWER_WITHIN):
            await writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """One line; empty when the asker has gone or stays silent.

        Raises:
            _BadRequestError: it is too long, or ends before its newline.
        """
        try:
            async with asyncio.timeout(self._request_within):
                return await reader.readuntil(b"\n")
        except TimeoutError:
            return b""
        except asyncio.LimitOverrunError:
            raise _BadRequestError(f"a request has at most {REQUEST_LIMIT} bytes") from None
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return b""
            raise _BadRequestError("the request ends before its newline") from None


def _parsed(line: bytes) -> tuple[str, Mapping[str, Any]]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise _BadRequestError("the request is not JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
        raise _BadRequestError("the request names no verb")
    arguments = request.get("arguments", {})
    if not isinstance(arguments, dict):
        raise _BadRequestError("the request's arguments are no object")
    return request["verb"], arguments


def _refusal(error: AgentError) -> bytes:
    told = {
        "ok": False,
        "error": REDACTOR.scrub(str(error)),
        "remedy": REDACTOR.scrub(error.remedy),
        "exit_code": int(error.exit_code),
    }
    return to_json(told) + b"\n"


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    raw = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    return int(_CREDENTIALS.unpack(raw)[1])


def _refuse_taken(path: Path) -> None:
    """Raises BusyError where an agent answers, UsageError where the name is no socket's."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} exists and is no socket", "move it away, or set web.admin_socket")
    if _answers(path):
        raise BusyError(f"another agent listens on {path}", "stop it, or set web.admin_socket")


def _answers(path: Path | str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # not to be told apart from a busy one: leave it alone
        return True


def _sweep(folder: Path) -> None:
    with os.scandir(folder) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(fs.TEMP_PREFIX)]
    for path in left:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode) and not _answers(path):
                os.unlink(path)
