"""An alerts job as a process of its own, so that a test can kill it: `python -m … FOLDER`.

FOLDER/config.json is the `alerts` section; FOLDER/state.db is the state; logs go to stderr.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path

from agent.alerts.engine import AlertsJob
from agent.clock import SystemClock
from agent.config import Alerts
from agent.state import StateDB
from agent.telemetry.logs import configure_logging
from agent.telemetry.metrics import NullRecorder
from agent.telemetry.redaction import REDACTOR


async def main(folder: Path) -> None:
    """Run until SIGTERM, then drain."""
    db = StateDB(folder / "state.db")
    section = Alerts.model_validate(json.loads((folder / "config.json").read_text()))
    job = AlertsJob(
        section,
        db=db,
        recorder=NullRecorder(),
        clock=SystemClock(),
        environment="test",
        pod="trader-0",
        secret_reader=None,
        context=lambda: {"bundle": "v2025-07-08"},
        redactor=REDACTOR,
    )
    task = asyncio.ensure_future(job.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    print("runs", flush=True)
    with suppress(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5.0):
        await job.drain()
    db.close()


if __name__ == "__main__":
    configure_logging("debug", "json")
    asyncio.run(main(Path(sys.argv[1])))
