"""Play a recorded series of scrapes through the rules: what would have paged, and when.

A recording is text: expositions one after another, each behind a line `# AT <unix seconds>`, as
`record` writes it from a live target. Rules are judged at each of those moments by the judge that
pages, on a store of its own; nothing is sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agent.alerts.errors import ExpositionError
from agent.alerts.exchange import Connection, ExchangeError
from agent.alerts.judge import Judge
from agent.alerts.rules import load_rules
from agent.alerts.series import SeriesStore
from agent.errors import UsageError
from agent.telemetry.metrics import NullRecorder
from agent.units import Bytes, Seconds, UnixTime

MARK = b"# AT "
_LOOKBACK = 300.0
_ALL = Seconds(1e12)
_MOST_BODY = Bytes(64 * 1024**2)


@dataclass(frozen=True, slots=True)
class Told:
    """One change that would have been told. `at` is the moment of the recording."""

    at: UnixTime
    change: str
    name: str
    severity: str
    labels: Mapping[str, str]
    value: float
    summary: str


def scrapes(source: IO[bytes]) -> Iterator[tuple[UnixTime, bytes]]:
    """Each recorded moment and its exposition, in the order of the file.

    Raises:
        UsageError: it does not begin with a mark, or the moments do not grow.
    """
    at: UnixTime | None = None
    lines: list[bytes] = []
    for number, line in enumerate(source, 1):
        if not line.startswith(MARK):
            if at is None and line.strip():
                raise UsageError(
                    f"line {number} of the recording stands before the first `# AT`",
                    "make one with `jules-agent alerts record`",
                )
            lines.append(line)
            continue
        if at is not None:
            yield at, b"".join(lines)
        before, lines = at, []
        try:
            at = UnixTime(float(line[len(MARK) :]))
        except ValueError:
            raise UsageError(f"line {number} of the recording has no time after `# AT`") from None
        if before is not None and not before < at < float("inf"):
            raise UsageError(f"line {number} of the recording does not go on in time")
    if at is not None:
        yield at, b"".join(lines)


async def replay(
    source: IO[bytes], rules: Sequence[str], interval: Seconds, target: Mapping[str, str]
) -> list[Told]:
    """What would have been told, in order: `pending`, `firing`, `resolved`.

    Args:
        source: the recording.
        rules: rule files or glob patterns; none: the shipped ones.
        interval: how often groups that give no interval are judged.
        target: labels that the scrapes get, such as `job`.

    Raises:
        UsageError: the recording cannot be read.
        RuleError: a rule file cannot be used.
        ExpositionError: a recorded exposition is not one; the message names its moment.
    """
    store = SeriesStore(1_000_000, _ALL)
    judge = Judge(load_rules(rules), store, NullRecorder(), {})
    store.watch(judge.names())
    store.retention = Seconds(judge.longest_range() + _LOOKBACK)
    told: list[Told] = []
    first: UnixTime | None = None
    for at, body in scrapes(source):
        first = at if first is None else first
        try:
            samples = store.ingest(target, at, body).samples
        except ExpositionError as error:
            raise ExpositionError(f"recorded at {at:.3f}: {error}", error.remedy) from None
        store.write("scrape", at, [({**target, "__name__": "up"}, float(samples > 0))])
        for verdict in await judge.judge(at, Seconds(at - first), interval):
            change, alert = verdict.transition.change, verdict.transition.alert
            if change in ("pending", "firing", "resolved"):
                summary = alert.annotations.get("summary", "")
                told.append(
                    Told(at, change, alert.name, alert.severity, alert.labels, alert.value, summary)
                )
    return told


def record(url: str, output: Path, every: Seconds, length: Seconds) -> int:
    """Scrape `url` each `every` seconds for `length` seconds into `output`; how many scrapes.

    A failed scrape is recorded as an empty exposition. Blocking.

    Raises:
        UsageError: `output` exists, or cannot be written.
    """
    connection = Connection()
    began = time.monotonic()
    count = 0
    try:
        with output.open("xb") as file:
            while (place := began + count * every) < began + length:
                time.sleep(max(0.0, place - time.monotonic()))
                at = time.time()
                try:
                    answer = connection.exchange(
                        "GET", url, deadline=Seconds(max(every, 1.0)), max_body=_MOST_BODY
                    )
                    body = answer.body if answer.status == 200 else b""
                except ExchangeError:
                    body = b""
                file.write(MARK + f"{at:.3f}\n".encode() + body.rstrip(b"\n") + b"\n")
                file.flush()
                count += 1
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}", "name a new file with --output") from None
    finally:
        connection.close()
    return count
