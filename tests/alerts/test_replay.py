"""A recording plays through the rules as the life that it recorded would have."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.alerts.errors import ExpositionError
from agent.alerts.replay import record, replay, scrapes
from agent.errors import UsageError
from agent.units import Seconds
from tests.faults.receiver import FaultyReceiver

T0 = 1_750_000_000
RULES = """
groups:
  - name: g
    rules:
      - alert: Slow
        expr: latency > 25
        for: 3s
        labels: {severity: critical}
        annotations: {summary: "latency is {{ $value }}"}
      - {alert: Down, expr: up == 0}
"""


def recording(*values: float | None) -> bytes:
    return b"".join(
        f"# AT {T0 + place}\n".encode() + (b"" if value is None else f"latency {value}\n".encode())
        for place, value in enumerate(values)
    )


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "rules.yml"
    path.write_text(RULES)
    return str(path)


async def test_it_says_what_would_have_paged_and_when(rules: str) -> None:
    source = io.BytesIO(recording(1, 30, 30, 30, 31, 31, 1, 1))
    told = await replay(source, [rules], Seconds(1.0), {"job": "trader"})
    assert [(item.at - T0, item.change, item.name) for item in told] == [
        (1, "pending", "Slow"),
        (4, "firing", "Slow"),
        (6, "resolved", "Slow"),
    ]
    assert told[1].summary == "latency is 31"
    assert told[1].severity == "critical"


async def test_an_empty_exposition_is_a_target_that_was_down(rules: str) -> None:
    source = io.BytesIO(recording(1, None, 1))
    told = await replay(source, [rules], Seconds(1.0), {"job": "trader"})
    assert [(item.at - T0, item.change) for item in told] == [(1, "firing"), (2, "resolved")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"latency 1\n", "before the first"),
        (b"# AT soon\nlatency 1\n", "no time"),
        (b"# AT 5\nlatency 1\n# AT 5\nlatency 1\n", "go on in time"),
        (b"# AT 5\nlatency 1\n# AT nan\nlatency 1\n", "go on in time"),
    ],
)
def test_what_is_no_recording_is_refused_with_its_line(text: bytes, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        list(scrapes(io.BytesIO(text)))


async def test_a_broken_exposition_is_refused_with_its_moment(rules: str) -> None:
    source = io.BytesIO(b"# AT 1750000000\nlatency one\n")
    with pytest.raises(ExpositionError, match="recorded at 1750000000"):
        await replay(source, [rules], Seconds(1.0), {"job": "trader"})


def test_what_was_recorded_from_a_live_target_replays(tmp_path: Path, rules: str) -> None:
    output = tmp_path / "metrics.txt"
    with FaultyReceiver() as target:
        target.answer = lambda handler: handler.reply(200, b"latency 30\n")
        assert record(target.url("/metrics"), output, Seconds(0.05), Seconds(0.2)) == 4
        with pytest.raises(UsageError, match="File exists"):
            record(target.url("/metrics"), output, Seconds(0.05), Seconds(0.2))
    assert len(list(scrapes(io.BytesIO(output.read_bytes())))) == 4
    command = [sys.executable, "-m", "agent", "alerts", "replay", "--metrics", str(output)]
    done = subprocess.run(
        [*command, "--rules", rules, "--json"], capture_output=True, text=True, check=True
    )
    assert [item["change"] for item in json.loads(done.stdout)] == ["pending"]
