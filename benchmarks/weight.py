"""The running agent beside a trader: resident memory and CPU at one scrape a second.

Two cases, each a real `jules-agent run` with the shipped rules, watched from outside by proc(5):
the demo's own trading process, and a target of 2,000 series whose values change at every scrape.
The scraped programs are other processes: what is measured is the agent's alone.
"""

from __future__ import annotations

import io
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from agent.demo.acts import Story
from agent.demo.narrator import Narrator
from agent.demo.stage import Stage, set_up
from agent.demo.watch import weight
from benchmarks.harness import Bar, arguments, compiled, finish

WIDE_SERIES = 2000
SETTLE = 10.0
"""Seconds after readiness before the measuring starts: start-up is not steady."""


def measure(pid: int, seconds: float) -> tuple[float, float]:
    """Largest resident MiB and percent of one core over `seconds`."""
    _, used = weight(pid)
    began = time.monotonic()
    largest = 0.0
    while time.monotonic() - began < seconds:
        largest = max(largest, weight(pid)[0])
        time.sleep(0.5)
    _, after = weight(pid)
    return largest, (after - used) / (time.monotonic() - began) * 100


@contextmanager
def demo_agent() -> Iterator[tuple[Stage, Story]]:
    """The demo's story up to the agent being ready."""
    stage = set_up(None)
    try:
        story = Story(stage, Narrator(io.StringIO()), 0)
        for step in story.steps():
            step.play()
            if step.name == "v1 live":
                break
        yield stage, story
    finally:
        stage.close()


class _Wide(BaseHTTPRequestHandler):
    """An exposition of `WIDE_SERIES` series, none of which stands still; a critical family too."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        rows = [
            f'wide_requests_total{{shard="{n % 40}",route="r{n}"}} {random.randrange(1 << 30)}'
            for n in range(WIDE_SERIES)
        ]
        text = "# TYPE wide_requests counter\n" + "\n".join(rows) + "\n"
        text += "# TYPE audit_log_write_errors_total counter\naudit_log_write_errors_total 0\n"
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


RULES = {
    "groups": [
        {
            "name": "wide",
            "rules": [
                {"alert": f"Wide{n}", "expr": f'rate(wide_requests_total{{shard="{n}"}}[1m]) < 0'}
                for n in range(40)
            ],
        }
    ]
}


@contextmanager
def wide_agent() -> Iterator[int]:
    """An agent of alerts alone on a target of `WIDE_SERIES` series, every one used; its pid."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Wide)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stage = set_up(None)
    try:
        rules = stage.work / "wide.yml"
        rules.write_text(yaml.safe_dump(RULES))
        tree = {
            "state_dir": str(stage.work / "state"),
            "log": {"level": "warning"},
            "web": {"listen": "127.0.0.1:0"},
            "secrets": {"enabled": False},
            "bundles": {"enabled": False},
            "alerts": {
                "rules": [str(rules)],
                "targets": [{"url": f"http://127.0.0.1:{server.server_address[1]}/metrics"}],
            },
        }
        stage.config.write_text(yaml.safe_dump(tree))
        stage.start("agent", "agent", "run", "--config", str(stage.config))
        yield stage.pid("agent")
        if dead := stage.dead():
            raise RuntimeError(f"{dead}: {Path(stage.log('agent')).read_text()[-2000:]}")
    finally:
        stage.close()
        server.shutdown()
        server.server_close()


def main() -> int:
    options = arguments(__doc__)
    seconds = 12.0 if options.quick else 60.0
    compiled()
    with demo_agent() as (stage, _):
        time.sleep(SETTLE)
        memory, cpu = measure(stage.pid("agent"), seconds)
    with wide_agent() as pid:
        time.sleep(SETTLE)
        wide_memory, wide_cpu = measure(pid, seconds)
    bars = [
        Bar("run beside the demo's trader, resident", memory, 70, "MiB"),
        Bar("run beside the demo's trader, CPU of one core", cpu, 2, "%"),
        Bar(f"run over {WIDE_SERIES} series, resident", wide_memory, 70, "MiB"),
        Bar(f"run over {WIDE_SERIES} series, CPU of one core", wide_cpu, 2, "%"),
    ]
    return finish(f"weight ({seconds:.0f} s each, 1 s scrapes)", bars, options)


if __name__ == "__main__":
    sys.exit(main())
