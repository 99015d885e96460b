"""The admin socket and its client, over real sockets: who is heard, what is answered, what is
left behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent import fs
from agent.errors import AgentError, BusyError, Exit, UnreachableError, UsageError
from agent.telemetry.redaction import REDACTOR
from agent.units import Seconds
from agent.web import admin as admin_module
from agent.web.admin import AdminServer
from agent.web.client import call


class Verbs:
    """Carries out what a test needs: echoes, refuses, fails, waits."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.release = asyncio.Event()
        self.finished: list[str] = []

    async def admin(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if verb == "echo":
            return dict(arguments)
        if verb == "refuse":
            error = AgentError("v3 is damaged", "publish it again")
            error.exit_code = Exit.BUNDLE
            raise error
        if verb == "slow":
            self.begun.set()
            await self.release.wait()
            self.finished.append(verb)
            return {"slow": True}
        raise RuntimeError("hunter2 is in this message")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "admin.sock"


@pytest.fixture
async def verbs(path: Path) -> AsyncIterator[Verbs]:
    verbs = Verbs()
    server = AdminServer(path, verbs, request_within=Seconds(0.3))
    await server.start()
    yield verbs
    await server.stop()


async def ask(path: Path, verb: str, timeout: float = 20.0, **arguments: Any) -> dict[str, Any]:
    return await asyncio.to_thread(call, path, verb, arguments, timeout=timeout)


async def raw(path: Path, data: bytes, *, eof: bool = False) -> Any:
    """What one connection that sends `data` is answered; None when it is just closed."""
    reader, writer = await asyncio.open_unix_connection(path, limit=2**20)
    try:
        writer.write(data)
        if eof:
            writer.write_eof()
        line = await asyncio.wait_for(reader.readline(), 20.0)
        return json.loads(line) if line else None
    finally:
        writer.close()


async def test_a_verb_travels_there_and_its_result_back(verbs: Verbs, path: Path) -> None:
    wanted: dict[str, Any] = {
        "version": "v1",
        "force": True,
        "source": None,
        "text": "µ\n",
        "limit": 3,
    }
    assert await ask(path, "echo", **wanted) == wanted


async def test_a_large_result_arrives_whole(verbs: Verbs, path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(path, limit=2**20)
    writer.write(json.dumps({"verb": "echo", "arguments": {"x": "y" * 60_000}}).encode() + b"\n")
    assert len(await reader.readline()) > 60_000
    writer.close()


async def test_a_refusal_comes_back_as_the_error_it_was(verbs: Verbs, path: Path) -> None:
    with pytest.raises(AgentError, match="v3 is damaged") as refused:
        await ask(path, "refuse")
    assert refused.value.remedy == "publish it again"
    assert refused.value.exit_code is Exit.BUNDLE


async def test_a_bug_in_a_verb_is_answered_without_its_message_and_the_next_verb_is_served(
    verbs: Verbs, path: Path
) -> None:
    with pytest.raises(AgentError) as failed:
        await ask(path, "explode")
    assert failed.value.exit_code is Exit.BUG
    assert "hunter2" not in failed.value.told()
    assert await ask(path, "echo", a=1) == {"a": 1}


async def test_a_known_secret_never_leaves_by_the_socket(verbs: Verbs, path: Path) -> None:
    REDACTOR.learn("test/web", b"canary-8d1f")
    try:
        assert await ask(path, "echo", x="it is canary-8d1f") == {"x": "it is [redacted]"}
    finally:
        REDACTOR.learn("test/web", b"")


async def test_numbers_that_json_cannot_hold_are_sent_as_text(verbs: Verbs, path: Path) -> None:
    told = await raw(path, b'{"verb": "echo", "arguments": {"value": NaN}}\n')
    assert told["result"] == {"value": "NaN"}


async def test_a_long_verb_holds_nobody_up_and_goes_on_when_its_asker_hangs_up(
    verbs: Verbs, path: Path
) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(b'{"verb": "slow"}\n')
    await asyncio.wait_for(verbs.begun.wait(), 10.0)
    assert await ask(path, "echo", a=1) == {"a": 1}
    writer.close()
    await writer.wait_closed()
    assert await ask(path, "echo", a=2) == {"a": 2}
    verbs.release.set()
    async with asyncio.timeout(10.0):
        while verbs.finished != ["slow"]:
            await asyncio.sleep(0.005)


async def test_one_connection_may_ask_several_times(verbs: Verbs, path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    for number in range(3):
        writer.write(json.dumps({"verb": "echo", "arguments": {"n": number}}).encode() + b"\n")
        assert json.loads(await reader.readline())["result"] == {"n": number}
    writer.close()


@pytest.mark.parametrize(
    "line",
    [
        b"{\n",
        b"[]\n",
        b"{}\n",
        b'{"verb": 5}\n',
        b'{"verb": "echo", "arguments": []}\n',
        b"\xff\xfe\n",
        b"[" * 30_000 + b"\n",
        b"x" * 70_000 + b"\n",
    ],
    ids=["cut", "list", "no-verb", "verb-5", "arguments-list", "no-utf8", "deep", "long"],
)
async def test_a_line_that_is_no_request_is_a_usage_error(
    verbs: Verbs, path: Path, line: bytes
) -> None:
    told = await raw(path, line)
    assert (told["ok"], told["exit_code"]) == (False, Exit.USAGE)
    assert told["error"]
    assert told["remedy"]


async def test_a_request_without_its_newline_is_refused_and_a_silent_asker_let_go(
    verbs: Verbs, path: Path
) -> None:
    assert (await raw(path, b'{"verb": "echo"}', eof=True))["exit_code"] == Exit.USAGE
    assert await raw(path, b'{"verb": "ec') is None


async def test_the_socket_is_0600_whatever_the_umask_and_nothing_else_is_left(path: Path) -> None:
    before = os.umask(0)
    try:
        server = AdminServer(path, Verbs())
        await server.start()
        mode = path.lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert os.listdir(path.parent) == ["admin.sock"]
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)
        await server.stop()
    assert os.listdir(path.parent) == []
    await server.stop()


async def test_what_a_killed_agent_left_does_not_stop_the_next_one(path: Path) -> None:
    path.parent.mkdir()
    for name in ("admin.sock", fs.temp_name()):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path.parent / name))
    kept = path.parent / fs.temp_name()
    kept.write_text("another part is writing this")
    server = AdminServer(path, Verbs())
    await server.start()
    assert sorted(os.listdir(path.parent)) == sorted(["admin.sock", kept.name])
    assert await ask(path, "echo", a=1) == {"a": 1}
    await server.stop()


async def test_a_second_agent_is_refused_and_the_first_keeps_its_socket(
    verbs: Verbs, path: Path
) -> None:
    with pytest.raises(BusyError, match="another agent listens"):
        await AdminServer(path, Verbs()).start()
    assert await ask(path, "echo", a=1) == {"a": 1}


async def test_a_file_of_that_name_is_never_replaced(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(UsageError, match="no socket"):
        await AdminServer(path, Verbs()).start()
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_a_unix_socket_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 60) / ("e" * 60) / "admin.sock"
    with pytest.raises(UsageError, match="too long") as refused:
        await AdminServer(path, Verbs()).start()
    assert "web.admin_socket" in refused.value.remedy
    assert os.listdir(path.parent) == []
    with pytest.raises(UsageError):
        call(path, "status", {}, timeout=1.0)


async def test_stop_leaves_a_successors_socket_alone(path: Path) -> None:
    first, second = AdminServer(path, Verbs()), AdminServer(path, Verbs())
    await first.start()
    path.unlink()
    await second.start()
    await first.stop()
    assert path.exists()
    await second.stop()


async def test_stop_ends_a_verb_under_way_and_tells_its_asker(path: Path) -> None:
    verbs = Verbs()
    server = AdminServer(path, verbs)
    await server.start()
    asking = asyncio.create_task(ask(path, "slow"))
    await asyncio.wait_for(verbs.begun.wait(), 10.0)
    await asyncio.wait_for(server.stop(), 10.0)
    with pytest.raises(AgentError, match="shutting down") as told:
        await asking
    assert told.value.exit_code is Exit.UNREACHABLE
    assert verbs.finished == []


async def test_too_many_askers_are_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "CONNECTIONS", 1)
    verbs = Verbs()
    server = AdminServer(path, verbs)
    await server.start()
    asking = asyncio.create_task(ask(path, "slow"))
    await asyncio.wait_for(verbs.begun.wait(), 10.0)
    with pytest.raises(AgentError, match="too many"):
        await ask(path, "echo")
    verbs.release.set()
    assert await asking == {"slow": True}
    await server.stop()


async def test_those_who_say_nothing_lock_no_operator_out(path: Path) -> None:
    server = AdminServer(path, Verbs())
    await server.start()
    silent = [await asyncio.open_unix_connection(path) for _ in range(40)]
    assert await ask(path, "echo", a=1)
    assert await asyncio.wait_for(silent[0][0].read(), 10.0) == b""
    for _, writer in silent:
        writer.close()
    await server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another uid")
async def test_another_uid_is_turned_away_even_where_the_mode_lets_it_in(
    verbs: Verbs, path: Path
) -> None:
    for folder in (path.parent, *path.parent.parents[:3]):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(0o755)
    path.chmod(0o666)
    ask_as_nobody = (
        "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        'try:\n    s.sendall(b\'{"verb": "echo"}\\n\'); print(s.recv(100))\n'
        "except ConnectionError:\n    print(b'')\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", ask_as_nobody, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout.strip(), done.stderr) == ("b''", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another uid")
def test_a_caller_that_may_not_use_the_socket_is_told_as_whom_to_ask(tmp_path: Path) -> None:
    ask_as_nobody = (
        "import os, sys; from pathlib import Path; from agent.web.client import call\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n    call(Path(sys.argv[1]), 'status', {}, timeout=5.0)\n"
        "except Exception as error:\n    print(type(error).__name__, error.remedy)\n"
    )
    tmp_path.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-c", ask_as_nobody, str(tmp_path / "admin.sock")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.startswith("UnreachableError ask as the uid"), done


def test_nobody_listening_is_unreachable_with_a_remedy(tmp_path: Path) -> None:
    gone = tmp_path / "gone.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "stale.sock"))
    for path in (gone, tmp_path / "stale.sock", tmp_path / "no" / "folder.sock"):
        with pytest.raises(UnreachableError, match="no agent listens") as refused:
            call(path, "status", {}, timeout=1.0)
        assert "jules-agent run" in refused.value.remedy
        assert refused.value.exit_code == 7


async def test_an_agent_that_does_not_answer_in_time_is_unreachable(
    verbs: Verbs, path: Path
) -> None:
    with pytest.raises(UnreachableError, match="did not answer `slow`"):
        await ask(path, "slow", timeout=0.2)
    verbs.release.set()


@pytest.mark.parametrize("answer", [b"", b"{", b"[]\n", b'{"ok": false}\n', b'{"ok": true}\n'])
def test_an_answer_that_is_none_is_unreachable(tmp_path: Path, answer: bytes) -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "print('up', flush=True); c, _ = s.accept(); c.recv(100)\n"
        "c.sendall(bytes.fromhex(sys.argv[2])); c.close()\n"
    )
    path = tmp_path / "a.sock"
    command = [sys.executable, "-c", script, str(path), answer.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        with pytest.raises(UnreachableError):
            call(path, "status", {}, timeout=20.0)


def test_the_client_costs_a_command_no_event_loop() -> None:
    script = "import agent.web.client, sys; print('asyncio' in sys.modules, 'h11' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
