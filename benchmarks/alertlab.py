"""The lab of the alerts benchmark: one exporter, sinks that can fail, the agent, and its peers.

Everything is on loopback. A trial's word (`trial-7x`) is a label's value, so that whatever receives
a message about it can be recognised by its bytes, whoever wrote it and in whatever format.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from agent.demo.stage import Stage, free_port, set_up
from agent.demo.watch import weight

KEY = "0123456789abcdef0123456789abcdef"
_WORD = re.compile(rb"trial-\d+x")
_RESOLVED = (b"RESOLVED", b'"resolve"', b'"status":"resolved"')

Fault = Callable[[float], tuple[int, dict[str, str]] | None]
"""From seconds since the sink was told to count, to a status and headers; None: all is well."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that was killed in the middle is part of the game."""


class Exporter:
    """Metrics that a trial sets by hand, beside 2,000 series of which a twentieth moves."""

    def __init__(self, wide: int = 2000) -> None:
        self.lock = threading.Lock()
        self.families: dict[str, dict[str, float]] = {}
        self._wide = [f'wide_total{{shard="s{n // 40}",route="r{n}"}}' for n in range(wide)]
        self._turn = 0
        handler = type("Bound", (_Metrics,), {"exporter": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def set(self, family: str, word: str, value: float) -> float:
        """Set one series; when, by the monotonic clock."""
        with self.lock:
            self.families.setdefault(family, {})[word] = value
            return time.monotonic()

    def text(self, names: list[str]) -> bytes:
        with self.lock:
            lines = [
                f'{family}{{n="{word}"}} {value}'
                for family, series in self.families.items()
                if not names or family in names
                for word, value in series.items()
            ]
        if not names:
            self._turn += 1
            lines += [
                f"{series} {self._turn if place % 20 == 0 else 1}"
                for place, series in enumerate(self._wide)
            ]
        return ("\n".join(lines) + "\n").encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Metrics(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    exporter: Exporter

    def do_GET(self) -> None:
        names = parse_qs(urlsplit(self.path).query).get("name[]", [])
        body = self.exporter.text(names)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


@dataclass(slots=True)
class Sink:
    """What one receiver accepted: word, whether it was a resolve, when."""

    name: str
    fault: Fault | None = None
    per_second: float | None = None
    burst: int = 0
    since: float = 0.0
    got: list[tuple[bytes, bool, float]] = field(default_factory=list)
    refused: int = 0
    tokens: float = 0.0
    at: float = 0.0

    def first(self, word: str, resolved: bool = False) -> float | None:
        """When a message about `word` was first accepted."""
        for seen, done, at in list(self.got):
            if seen == word.encode() and done is resolved:
                return at
        return None

    def count(self, word: str, resolved: bool = False) -> int:
        return sum(seen == word.encode() and done is resolved for seen, done, _ in list(self.got))

    def judge(self, now: float) -> tuple[int, dict[str, str]] | None:
        """The refusal that meets a request now, if one does."""
        if self.fault is not None and (met := self.fault(now - self.since)) is not None:
            return met
        if self.per_second is None:
            return None
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.per_second)
        self.at = now
        if self.tokens < 1.0:
            return 429, {"Retry-After": "1"}
        self.tokens -= 1.0
        return None


class Sinks:
    """Every receiver, on one port; the first part of the path is its name."""

    def __init__(self) -> None:
        self.all: dict[str, Sink] = {}
        self.lock = threading.Lock()
        handler = type("Bound", (_Receives,), {"sinks": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, name: str, **more: Any) -> Sink:
        made = self.all[name] = Sink(name, **more)
        made.tokens, made.at = float(made.burst), time.monotonic()
        return made

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Receives(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    sinks: Sinks

    def do_POST(self) -> None:
        now = time.monotonic()
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sink = self.sinks.all[self.path.split("/")[1]]
        with self.sinks.lock:
            met = sink.judge(now)
            if met is None:
                done = any(mark in raw for mark in _RESOLVED)
                sink.got += [(word, done, now) for word in sorted(set(_WORD.findall(raw)))]
            else:
                sink.refused += 1
        status, headers = met or (202 if "pd" in sink.name else 200, {})
        body = b"ok" if "slack" in sink.name else b'{"status":"success","dedup_key":"k"}'
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


class Process:
    """A peer: started, killed, started again."""

    def __init__(self, command: list[str], log: Path, ready: str) -> None:
        self._command, self._log, self._ready = command, log, ready
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait(lambda: answers(self._ready), 30.0, f"{self._command[0]} is ready")

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self._running is not None and self._running.poll() is None:
            self._running.send_signal(how)
            self._running.wait(20.0)
        self._running = None


class Lab:
    """Exporter, sinks, and whoever was started; all gone at the end."""

    def __init__(self, stack: ExitStack, work: Path) -> None:
        self._stack, self.work = stack, work
        self.exporter, self.sinks = Exporter(), Sinks()
        stack.callback(self.exporter.close)
        stack.callback(self.sinks.close)

    def agent(self, name: str, rules: Path, **alerts: Any) -> Stage:
        """A real `jules-agent run` of alerts alone, in a folder of its own."""
        stage = set_up(None)
        self._stack.callback(stage.close)
        port = free_port()
        tree = {
            "state_dir": str(stage.work / "state"),
            "log": {"level": "error"},
            "web": {"listen": f"127.0.0.1:{port}"},
            "secrets": {"enabled": False},
            "bundles": {"enabled": False},
            "alerts": {
                "rules": [str(rules)],
                "targets": [{"url": f"http://127.0.0.1:{self.exporter.port}/metrics"}],
                **alerts,
            },
        }
        stage.config.write_text(yaml.safe_dump(tree))
        self.run(stage)
        if not until(lambda: answers(f"http://127.0.0.1:{port}/livez"), 30.0):
            raise RuntimeError(f"agent {name} does not answer: {stage.log('agent').read_text()}")
        return stage

    def run(self, stage: Stage) -> None:
        """Start the agent of `stage`, again after a stop."""
        stage.start("agent", "agent", "run", "--config", str(stage.config))

    def destinations(self, prefix: str) -> dict[str, Any]:
        """The agent's three destinations, on the sinks `PREFIX-pd`, `-slack`, `-hook`."""
        hook, key = self.work / f"{prefix}-slack-url", self.work / "key"
        hook.write_text(self.sinks.url(f"{prefix}-slack"))
        key.write_text(KEY)
        every = ["critical", "warning"]
        return {
            "pagerduty": {
                "url": self.sinks.url(f"{prefix}-pd"),
                "routing_key": {"file": str(key)},
                "severities": every,
            },
            "slack": {"webhook_url": {"file": str(hook)}, "severities": every},
            "webhooks": [{"url": self.sinks.url(f"{prefix}-hook"), "severities": every}],
        }

    def alertmanager(
        self, name: str, sinks: Mapping[str, str], **route: str
    ) -> tuple[Process, int]:
        """An Alertmanager that tells `sinks` (`pd`, `slack`, `hook`: name of a sink)."""
        receiver: dict[str, Any] = {"name": "all"}
        for kind, sink in sinks.items():
            url = self.sinks.url(sink)
            if kind == "pd":
                receiver["pagerduty_configs"] = [{"url": url, "routing_key": KEY}]
            elif kind == "slack":
                receiver["slack_configs"] = [
                    {"api_url": url, "channel": "#a", "send_resolved": True}
                ]
            else:
                receiver["webhook_configs"] = [{"url": url, "send_resolved": True}]
        tree = {
            "route": {"receiver": "all", "group_by": ["..."], **route},
            "receivers": [receiver],
        }
        config = self.work / f"{name}.yml"
        config.write_text(yaml.safe_dump(tree))
        port = free_port()
        made = Process(
            [
                "prometheus-alertmanager",
                f"--config.file={config}",
                f"--storage.path={self.work / name}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            self.work / f"{name}.log",
            f"http://127.0.0.1:{port}/-/ready",
        )
        made.start()
        self._stack.callback(made.stop)
        return made, port

    def prometheus(self, name: str, rules: Path, every: str, managers: list[int]) -> Process:
        """A Prometheus that scrapes and judges `every` and tells these Alertmanagers."""
        targets = [f"127.0.0.1:{port}" for port in managers]
        tree = {
            "global": {"scrape_interval": every, "evaluation_interval": every},
            "rule_files": [str(rules)],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": targets}]}]},
            "scrape_configs": [
                {
                    "job_name": "trader",
                    "static_configs": [{"targets": [f"127.0.0.1:{self.exporter.port}"]}],
                }
            ],
        }
        config = self.work / f"{name}.yml"
        config.write_text(yaml.safe_dump(tree))
        port = free_port()
        made = Process(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={self.work / name}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=error",
            ],
            self.work / f"{name}.log",
            f"http://127.0.0.1:{port}/-/ready",
        )
        made.start()
        self._stack.callback(made.stop)
        return made


@contextmanager
def lab() -> Iterator[Lab]:
    """A lab in a folder of its own."""
    for tool in ("prometheus", "prometheus-alertmanager"):
        if not shutil.which(tool):
            raise SystemExit(f"this benchmark needs {tool}: apt-get install {tool}")
    with ExitStack() as stack:
        stage = set_up(None)
        stack.callback(stage.close)
        yield Lab(stack, stage.work)


def wait(seen: Callable[[], Any], within: float, what: str) -> bool:
    """Poll until true. Raises RuntimeError naming `what` when it is not, in time."""
    if not until(seen, within):
        raise RuntimeError(f"{what}: not within {within:.0f} s")
    return True


def until(seen: Callable[[], Any], within: float) -> bool:
    """Poll until true; False when the time is over."""
    ends = time.monotonic() + within
    while time.monotonic() < ends:
        if seen():
            return True
        time.sleep(0.02)
    return bool(seen())


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def burden(pids: list[int], seconds: float) -> tuple[float, float]:
    """Resident MiB now and percent of one core over `seconds`, of all together."""
    before = sum(weight(pid)[1] for pid in pids)
    time.sleep(seconds)
    after = [weight(pid) for pid in pids]
    return sum(w[0] for w in after), (sum(w[1] for w in after) - before) / seconds * 100
