"""The running half of the secrets benchmark: steady weight, growth, a write until it is seen,
rotations under readers. Used by `benchmarks.secrets`; the measured loops run in processes of their
own (`python -m benchmarks.secretsrun growth|rotate …`), so that nothing else counts in them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, median
from tests import servers

EPOCH = "desk/epoch"


class Counting:
    """A plain TCP relay to one server that counts the HTTP requests through it."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.create_connection(("127.0.0.1", self._target))
                for source, sink, count in ((ours, theirs, True), (theirs, ours, False)):
                    pair = (source, sink, count)
                    threading.Thread(target=self._relay, args=pair, daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, count: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if count:
                    self.requests += data.count(b" HTTP/1.1\r\n")
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def config_of(
    folder: Path, directory: Path, url: str, names: list[str], every: float, port: int
) -> Path:
    """A configuration of a running agent that follows the sentinel, with its metrics on."""
    path = folder / f"run-{directory.name}.yaml"
    items = ", ".join(f"{{name: {name}}}" for name in names)
    path.write_text(
        f"environment: staging\nstate_dir: {folder}/state-{directory.name}\n"
        f"log: {{level: warning}}\nalerts: {{enabled: false}}\nbundles: {{enabled: false}}\n"
        f"web: {{listen: '127.0.0.1:{port}'}}\n"
        f"secrets:\n  directory: {directory}\n  check_interval: {every}\n"
        f"  vault: {{url: '{url}', sentinel: {EPOCH}, auth: {{token_file: {folder}/token}}}}\n"
        f"  items: [{items}]\n"
    )
    return path


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the body; what it says is in `log`."""
    with log.open("wb") as told:
        running = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def wait(holds: Callable[[], bool], log: Path, seconds: float = 30.0) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            raise RuntimeError(f"it did not come to pass: {log.read_text()[-1500:]}")
        time.sleep(0.002)


def memory_of(pid: int) -> tuple[float, float]:
    """Resident and anonymous MiB."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(told["VmRSS"].split()[0]) / 1024, int(told["RssAnon"].split()[0]) / 1024


def measure_running(
    folder: Path, memory: Path, bao: servers.Bao, names: list[str], peer: Path, quick: bool
) -> list[Bar]:
    """Weight beside the peer, and how soon a write is seen at two intervals."""
    bao.put(EPOCH, {"value": "0"})
    settle = 10.0 if quick else 60.0
    agent = [sys.executable, "-m", "agent", "run", "--config"]
    bars: list[Bar] = []
    with ExitStack() as stack:
        count = Counting(int(bao.url.rpartition(":")[2]))
        stack.callback(count.close)
        mine, log = memory / "slow", folder / "slow.log"
        config = config_of(folder, mine, count.url, names, 5.0, servers.free_port())
        running = stack.enter_context(process([*agent, str(config)], log))
        theirs = stack.enter_context(
            process([bao.binary, "agent", f"-config={peer}"], folder / "peer.log")
        )
        wait(lambda: (mine / names[-1]).with_suffix(".json").exists(), log)
        wait(lambda: len(list((memory / "peer" / "desk").glob("*"))) >= len(names), log)
        began, before = time.monotonic(), count.requests
        time.sleep(settle)
        rate = (count.requests - before) / (time.monotonic() - began)
        ours, other = memory_of(running.pid), memory_of(theirs.pid)
        beside = f"bao agent {other[0]:.0f} MiB; anonymous {ours[1]:.1f} beside {other[1]:.1f}"
        bars.append(Bar("steady RSS, metrics on", ours[0], 0.6 * other[0], "MiB", beside))
        bars.append(Bar("requests while nothing changes, 5 s", rate, 0.25, "/s"))
        seen = visible(bao, mine, names, 2 if quick else 20, log, spread=5.0)
        bars.append(
            Bar("write until seen, 5 s, worst", max(seen), 10, "s", f"of {len(seen)} writes")
        )
    with ExitStack() as stack:
        count = Counting(int(bao.url.rpartition(":")[2]))
        stack.callback(count.close)
        mine, log = memory / "fast", folder / "fast.log"
        config = config_of(folder, mine, count.url, names, 1.0, servers.free_port())
        stack.enter_context(process([*agent, str(config)], log))
        wait(lambda: (mine / names[-1]).with_suffix(".json").exists(), log)
        began, before = time.monotonic(), count.requests
        time.sleep(2.0 if quick else 20.0)
        rate = (count.requests - before) / (time.monotonic() - began)
        seen = visible(bao, mine, names, 5 if quick else 40, log, spread=1.0)
        beside = f"median of {len(seen)}; {rate:.2f} requests/s while nothing changes"
        bars.append(Bar("write until seen, 1 s", median(seen), 0.5, "s", beside))
    return bars


def visible(
    bao: servers.Bao, directory: Path, names: list[str], rounds: int, log: Path, spread: float
) -> list[float]:
    """Seconds from the last write of a change (two secrets, then the sentinel) to the flip that
    shows both."""
    found: list[float] = []
    for at in range(rounds):
        time.sleep(random.uniform(0, spread))
        mark = f"{directory.name}-{at}"
        for name in (names[0], names[-1]):
            bao.put(name, {"value": mark})
        bao.put(EPOCH, {"value": mark})
        began = time.monotonic()
        wanted = json.dumps(mark).encode()

        def shows(wanted: bytes = wanted) -> bool:
            root = directory / os.readlink(directory / "..data")
            with suppress(OSError):
                both = [(root / f"{name}.json").read_bytes() for name in (names[0], names[-1])]
                if both.count(wanted) == 1:
                    raise RuntimeError("a generation showed half of a change")
                return both.count(wanted) == 2
            return False

        wait(shows, log)
        found.append(time.monotonic() - began)
    return found


def measure_loops(folder: Path, memory: Path, url: str, name: str, quick: bool) -> list[Bar]:
    """Growth over refreshes, and rotations under readers."""
    refreshes, rotations = (1_500, 1_500) if quick else (10_000, 10_000)
    grown = child("growth", url, str(folder / "token"), str(memory / "grown"), name, refreshes)
    turned = child("rotate", str(memory / "turned"), rotations)
    reads = f"{turned['reads']} reads by 2 processes, {rotations} rotations"
    return [
        Bar(f"growth over {refreshes} refreshes", grown["grown"], 1.0, "MiB"),
        Bar("torn sets under rotation", turned["torn"], 1, "", reads),
        Bar("missing files under rotation", turned["missing"], 1, "", reads),
        Bar("stale after the flip", turned["stale"], 1, "", reads),
        Bar("growth over the rotations", turned["grown"], 1.0, "MiB"),
        Bar("descriptors more than before", turned["descriptors"], 1, ""),
    ]


def child(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.secretsrun", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def growth(url: str, token: str, directory: str, name: str, rounds: str) -> dict[str, float]:
    """Anonymous memory gained over so many refreshes from Vault, after a tenth of them."""
    from benchmarks.secrets import service_of

    service = service_of(
        {
            "directory": directory,
            "vault": {"url": url, "auth": {"token_file": token}},
            "chain": {"order": ["vault"], "deadline": 20},
            "items": [{"name": name}],
        }
    )
    for _ in range(max(200, int(rounds) // 10)):
        service.publish(refresh=True)
    before = memory_of(os.getpid())[1]
    for _ in range(int(rounds)):
        service.publish(refresh=True)
    return {"grown": memory_of(os.getpid())[1] - before}


def rotate(directory: str, rounds: str) -> dict[str, float]:
    """Publish set after set of two equal files while two processes read both by one descriptor."""
    from agent.clock import SystemClock
    from agent.secrets.generation import Publisher
    from agent.secrets.tree import Item
    from agent.units import Seconds, UnixTime

    publisher = Publisher(Path(directory), SystemClock(), keep_for=Seconds(0.5))

    def publish(at: int) -> None:
        data = b"%08d" % at * 64
        items = [Item(n, data, n, str(at), "x", UnixTime(0.0)) for n in ("a", "b")]
        publisher.publish({item.path: item for item in items})

    publish(0)
    context = multiprocessing.get_context("spawn")
    ends, answers = context.Event(), context.Queue()
    readers = [context.Process(target=read, args=(directory, ends, answers)) for _ in range(2)]
    for reader in readers:
        reader.start()
    stale, total = 0, int(rounds)
    warm = total // 5
    before, descriptors = 0.0, 0
    for at in range(1, total + 1):
        publish(at)
        stale += Path(directory, "a").read_bytes()[:8] != b"%08d" % at
        if at == warm:
            before, descriptors = memory_of(os.getpid())[1], len(os.listdir("/proc/self/fd"))
    grown = memory_of(os.getpid())[1] - before
    more = len(os.listdir("/proc/self/fd")) - descriptors
    ends.set()
    found = [answers.get(timeout=30) for _ in readers]
    for reader in readers:
        reader.join()
    sums = [sum(one[at] for one in found) for at in range(3)]
    return {
        **dict(zip(("reads", "torn", "missing"), sums, strict=True)),
        "stale": stale,
        "grown": grown,
        "descriptors": max(0, more),
    }


def read(directory: str, ends: Any, answers: Any) -> None:
    """A reader as docs/secrets.md has it."""
    reads = torn = missing = 0
    while not ends.is_set():
        try:
            root = os.open(f"{directory}/..data", os.O_RDONLY | os.O_DIRECTORY)
            try:
                both = []
                for name in ("a", "b"):
                    with open(os.open(name, os.O_RDONLY, dir_fd=root), "rb") as file:
                        both.append(file.read())
                torn += both[0] != both[1]
            finally:
                os.close(root)
        except OSError:
            missing += 1
        reads += 1
    answers.put((reads, torn, missing))


if __name__ == "__main__":
    loop, *given = sys.argv[1:]
    print(json.dumps(growth(*given) if loop == "growth" else rotate(*given)))
