"""Bundles: what a reader, a publisher and an operator wait for, beside the plain way in one run.

Readers while versions are flipped away and deleted (through the lease, by path, and under a swap by
two renames); a drop into the store until `current` moves; the way back; a flip beside its two bare
calls; staging beside cp and sha256sum; a change of one small file of a large bundle; verification;
a start after kill -9 at the file-system calls of a deployment. `--quick` uses 256 MiB instead of
1 GiB, fewer rounds, and every ninth call.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agent import fs
from agent.bundles.layout import Layout
from agent.bundles.publish import publish
from agent.bundles.retention import delete, take_away
from agent.bundles.staging import copy, discard
from agent.bundles.stores.folder import FolderStore
from agent.bundles.verified import Verified, verify
from agent.configpod import Limits
from agent.units import Bytes, Version
from agent.web.client import call
from benchmarks.harness import Bar, arguments, compiled, finish, median

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT / "agent" / "demo" / "bundles" / "v2025-07-06"
MIB = 1024**2
_READER = """
import os, sys, time
from agent.reader import open_bundle
kind, root, stop = sys.argv[1:]
reads = mixed = missing = 0
took = []
print("reading", flush=True)
while not os.path.exists(stop):
    for _ in range(200):
        try:
            if kind == "lease":
                began = time.perf_counter()
                with open_bundle(root) as bundle:
                    took.append(time.perf_counter() - began)
                    parts = {bundle.read("a"), bundle.read("b")}
            else:
                parts = {open(f"{root}/current/{name}", "rb").read() for name in ("a", "b")}
        except OSError:
            missing += 1
            continue
        reads += 1
        mixed += len(parts) != 1
took.sort()
print(reads, mixed, missing, took[len(took) // 2] if took else 0.0)
"""


# -- readers --------------------------------------------------------------------------------------


def readers(folder: Path, kind: str, seconds: float, *, swap: bool = False) -> tuple[float, ...]:
    """Two reader processes under flips; reads, mixed, missing, median lease, flips a second."""
    layout = Layout(folder / f"{kind}-{swap}")
    layout.prepare()
    stop = folder / f"stop-{kind}-{swap}"
    version = _version(layout, 0)
    layout.current.symlink_to(f"bundles/{version}")
    command = [sys.executable, "-c", _READER, kind, str(layout.root), str(stop)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    began, flips = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        flips += 1
        version = _version(layout, flips)
        if swap:
            os.symlink(f"bundles/{version}", layout.root / "next")
            os.rename(layout.current, layout.root / "old")
            os.rename(layout.root / "next", layout.current)
            os.unlink(layout.root / "old")
        else:
            fs.replace_link(layout.current, f"bundles/{version}", durable=False)
        for old in layout.versions():
            taken = None if old == version else take_away(layout, old)
            if taken is not None:
                delete(taken)
    rate = flips / (time.perf_counter() - began)
    stop.touch()
    told = [process.communicate(timeout=60)[0].split() for process in processes]
    counts = [sum(float(one[column]) for one in told) for column in range(3)]
    return (*counts, median([float(one[3]) for one in told]), rate)


def _version(layout: Layout, number: int) -> Version:
    name = f"v{number}"
    fresh = layout.staging / name
    fresh.mkdir()
    for path in ("a", "b"):
        (fresh / path).write_text(name)
    os.rename(fresh, layout.folder(Version(name)))
    return Version(name)


def reader_bars(folder: Path, seconds: float) -> Iterator[Bar]:
    plain = readers(folder, "plain", seconds / 3)
    swapped = readers(folder, "plain", seconds / 3, swap=True)
    reads, mixed, missing, lease, rate = readers(folder, "lease", seconds)
    by_path = f"by path {100 * plain[1] / max(1, plain[0]):.2f} % mixed"
    gone = 100 * swapped[2] / max(1, swapped[0] + swapped[2])
    told = f"{reads:.0f} reads"
    yield Bar("mixed reads through the lease", mixed, 1, "", f"{told}; {by_path}")
    two = f"two renames: {gone:.1f} % find nothing"
    yield Bar("missing files through the lease", missing, 1, "", f"{told}; {two}")
    yield Bar("time between two flips then", 1000 / rate, 1000 / 300, "ms", f"{rate:.0f} a second")
    yield Bar("a lease, median", lease * 1e6, 10, "us", "open, lock, look again")


# -- a running agent ------------------------------------------------------------------------------


@contextmanager
def trader(root: Path) -> Iterator[str]:
    """A /health that reports what is live, as a trader does that reloads at once."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            live = os.path.basename(os.readlink(root / "current"))
            good = dict.fromkeys(("model_loaded", "risk_system_active", "database_connected"), True)
            body = json.dumps({**good, "model_version": live}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/health"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def agent(folder: Path) -> Iterator[Callable[[str, dict[str, Any]], dict[str, Any]]]:
    """`jules-agent run` on `folder`; yields its admin verbs."""
    with trader(folder / "models") as url:
        config = folder / "agent.yaml"
        config.write_text(
            f"state_dir: {folder}/state\nlog: {{level: error}}\nalerts: {{enabled: false}}\n"
            'secrets: {enabled: false}\nweb: {listen: "127.0.0.1:0"}\n'
            f"bundles:\n  root: {folder}/models\n  store: {{path: {folder}/store}}\n"
            f"  health: {{url: '{url}'}}\n  bake: {{duration: 0}}\n  settle: 10ms\n"
            "  retention: {keep: 3, hours: 0}\n"
        )
        command = [sys.executable, "-m", "agent", "run", "--config", str(config)]
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            socket = folder / "state" / "admin.sock"
            yield lambda verb, wanted: call(socket, verb, wanted, timeout=60.0)
        finally:
            process.terminate()
            process.wait(30)


def made(folder: Path, version: str, *, large: int = 0, note: str = "") -> Path:
    """A real bundle's folder; with `large` bytes of weights besides, the same for every version."""
    source = folder / f"source-{version}"
    shutil.copytree(REAL, source)
    metadata = json.loads((source / "metadata.json").read_bytes())
    (source / "metadata.json").write_text(json.dumps({**metadata, "version": version}))
    (source / "README.md").write_text(note or version)
    for number in range(2 if large else 0):
        with open(source / f"weights-{number}.bin", "wb") as file:
            file.writelines(os.urandom(16) * (MIB // 16) for _ in range(large // 2 // MIB))
    return source


def dropped(folder: Path, version: str, *, source: Path) -> float:
    """Publish, let the channel ask for it, and time until `current` moves; seconds."""
    store, current = folder / "store", folder / "models" / "current"
    publish(source, store, version, "parked")
    channel = store / "channels" / "development.json"
    fresh = channel.with_name(".fresh")
    shutil.copy(store / "channels" / "parked.json", fresh)
    began = time.perf_counter()
    os.replace(fresh, channel)
    deadline = began + 60
    while time.perf_counter() < deadline:
        try:
            if os.readlink(current).endswith(f"/{version}"):
                return time.perf_counter() - began
        except FileNotFoundError:
            pass
        time.sleep(0.0002)
    raise RuntimeError(f"{version} did not go live")


def settled(ask: Callable[[str, dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The newest rollout, once it has ended."""
    while True:
        (newest,) = ask("history", {"limit": 1})["history"]
        if newest["ended_at"] is not None:
            return dict(newest)
        time.sleep(0.005)


def agent_bars(folder: Path, rounds: int, large: int) -> Iterator[Bar]:
    (folder / "store").mkdir()
    drops, ways_back = [], []
    with agent(folder) as ask:
        dropped(folder, "v0", source=made(folder, "v0"))
        settled(ask)
        for number in range(1, rounds + 1):
            drops.append(dropped(folder, f"v{number}", source=made(folder, f"v{number}")))
            settled(ask)
            if number % 4 == 0:
                began = time.perf_counter()
                told = ask("rollback", {"reason": "measured"})
                ways_back.append(time.perf_counter() - began)
                if told["state"] != "ACTIVE":
                    raise RuntimeError(f"the way back ended {told['state']}: {told['reason']}")
        big = made(folder, "big-1", large=large)
        dropped(folder, "big-1", source=big)
        settled(ask)
        changed = made(folder, "big-2", note="changed")
        for path in big.glob("weights-*"):
            os.link(path, changed / path.name)
        before = fs.free_bytes(folder)
        publish(changed, folder / "store", "big-2", "parked")
        after = fs.free_bytes(folder)
        small = dropped(folder, "big-2", source=changed)
        copied = settled(ask)["steps"][0]["detail"]
        disk = max(0, after - fs.free_bytes(folder)) / MIB
    fetched = int(copied.split()[0]) / 1024
    drops.sort()
    beside = f"{len(drops)} drops; git-sync polls every 10 s"
    yield Bar("dropped into the store to flipped, median", median(drops) * 1000, 20, "ms", beside)
    yield Bar("dropped to flipped, worst", drops[-1] * 1000, 100, "ms", beside)
    worst = max(ways_back) * 1000
    yield Bar("rollback, asked to verified, worst", worst, 1000, "ms", f"{len(ways_back)} times")
    size = f"of {large // MIB} MiB; the store took {max(0, before - after) // MIB} MiB"
    yield Bar("one text changed: fetched", fetched, 64, "KiB", size)
    yield Bar("one text changed: detected to flipped", small * 1000, 50, "ms", size)
    yield Bar("one text changed: new disk", disk, 1, "MiB", size)


# -- single parts ---------------------------------------------------------------------------------


def flip_bars(folder: Path, rounds: int) -> Iterator[Bar]:
    ours, bare = [], []
    for number in range(rounds):
        began = time.perf_counter()
        os.symlink(f"bundles/v{number % 2}", folder / "temp")
        os.replace(folder / "temp", folder / "bare")
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        fs.replace_link(folder / "link", f"bundles/v{number % 2}", durable=False)
        ours.append(time.perf_counter() - began)
    late = int(rounds * 0.99)
    floor, worst = sorted(bare)[late] * 1e6, sorted(ours)[late] * 1e6
    yield Bar("a flip without sync, p99, times the bare calls", worst / floor, 3, "x",
              f"{worst:.0f} beside {floor:.0f} us")  # fmt: skip


def staging_bars(folder: Path, large: int, rounds: int) -> Iterator[Bar]:
    source = made(folder, "stage", large=large)
    publish(source, folder / "store", "stage", "parked")
    stored = folder / "store" / "bundles" / "stage"
    layout, ours, plain = Layout(folder / "staged"), [], []
    layout.prepare()
    limits = Limits(headroom=Bytes(0))
    for number in range(rounds):
        began = time.perf_counter()
        target = folder / f"cp-{number}"
        subprocess.run(["cp", "-r", "--reflink=never", str(stored), str(target)], check=True)
        files = [str(path) for path in target.rglob("*") if path.is_file()]
        subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
        plain.append(time.perf_counter() - began)
        subprocess.run(["chmod", "-R", "u+w", str(target)], check=True)
        shutil.rmtree(target)
        began = time.perf_counter()
        draft = copy(
            layout,
            FolderStore(folder / "store"),
            Version("stage"),
            limits=limits,
            manifest_required=True,
        )
        ours.append(time.perf_counter() - began)
        if number < rounds - 1:
            discard(draft)
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        verify(draft.folder, draft.manifest, Verified())
        took.append(time.perf_counter() - began)
    discard(draft)
    size = f"{large // MIB} MiB"
    beside = f"{median(ours):.2f} beside {median(plain):.2f} s, ours synced to disk"
    yield Bar(f"{size} staged and digested, times cp + sha256sum",
              median(ours) / median(plain), 1.3, "x", beside)  # fmt: skip
    scaled = median(took) * 1024 * MIB / large
    yield Bar("verify 1 GiB, warm", scaled, 0.5, "s", f"{median(took):.2f} s for {size}")


def kill_bars(folder: Path, stride: int) -> Iterator[Bar]:
    compiler = shutil.which("cc")
    if compiler is None:
        print("  (no C compiler: kill -9 at each call is left out)")
        return
    preload = folder / "callfaults.so"
    source = ROOT / "tests" / "faults" / "callfaults.c"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(preload), str(source), "-ldl"]
    subprocess.run(command, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bundles.everycall", "kill", "1", str(stride)],
        env={**os.environ, "LD_PRELOAD": str(preload)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    wedged = 0 if done.returncode == 0 else 1
    told = json.loads(done.stdout.splitlines()[-1]) if not wedged else {"worst": 99, "cases": 0}
    beside = f"{told['cases']} kills, every {stride}. call of a deployment"
    yield Bar("kill -9: not whole, wedged or leaked afterwards", wedged, 1, "", beside)
    yield Bar("kill -9: start until all is well again, worst", told["worst"], 1, "s", beside)


def main() -> int:
    options = arguments(__doc__)
    quick = options.quick
    large = (256 if quick else 1024) * MIB
    compiled()
    folder = Path(tempfile.mkdtemp(prefix="jules-bench-"))
    bars: list[Bar] = []
    try:
        parts: dict[str, Callable[[Path], Iterator[Bar]]] = {
            "readers": lambda place: reader_bars(place, 5 if quick else 45),
            "agent": lambda place: agent_bars(place, 24 if quick else 100, large),
            "flip": lambda place: flip_bars(place, 2000 if quick else 10000),
            "staging": lambda place: staging_bars(place, large, 3 if quick else 5),
            "kills": lambda place: kill_bars(place, 9 if quick else 1),
        }
        for name, part in parts.items():
            place = folder / name
            place.mkdir()
            bars.extend(part(place))
            fs.remove_tree(place)
    finally:
        fs.remove_tree(folder)
    return finish(f"bundles ({'quick' if quick else 'full'})", bars, options)


if __name__ == "__main__":
    sys.exit(main())
