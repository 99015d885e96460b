"""A durable outbox for a process that calls us itself: what it said is on disk before it is sent.

The calling process may run one event loop after another (`asyncio.run` for each call), so what
belongs to a loop is made anew for each. One process at a time may hold the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from agent import fs
from agent.alerts.errors import DeliveryError
from agent.alerts.notifiers.base import SLOW_RETRY
from agent.alerts.outbox import Outbox
from agent.alerts.routing import Notification
from agent.clock import Clock
from agent.state import StateDB
from agent.telemetry.logs import get_logger
from agent.units import UnixTime

_log = get_logger(__name__)

LIMIT = 10_000
Send = Callable[[Notification], None]
"""Delivers one notification; blocking. Raises DeliveryError."""


class Calls:
    """The outbox of one process, below one folder."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        """
        Raises:
            BusyError: another process holds the folder.
            OSError: it cannot be made or written.
        """
        fs.make_dirs_durable(folder)
        self._clock = clock
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(fs.lock(folder / "alert-calls.lock", "another process"))
        self._db = StateDB(folder / "alert-calls.db", clock)
        self._stack.callback(self._db.close)
        self._box: Outbox | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns: dict[str, asyncio.Lock] = {}
        self._own: set[int] = set()
        self._accepted: set[int] = set()

    def box(self) -> Outbox:
        """The outbox, for the loop that runs now."""
        loop = asyncio.get_running_loop()
        if self._box is None or self._loop is not loop:
            if self._box is not None:
                self._box.close()
            self._box, self._loop, self._turns = Outbox(self._db, self._clock, LIMIT), loop, {}
        return self._box

    async def say(self, notification: Notification, senders: dict[str, Send]) -> dict[str, bool]:
        """Keep it, then send all that waits for these destinations, in order, at once.

        Returns whether each destination has it; what is False stays and goes with a later call.
        """
        box = self.box()
        items = {name: box.add(name, notification, self._clock.now()) for name in senders}
        own = {item.id for item in items.values() if item is not None}
        self._own |= own
        box.make_room()
        await box.flush()
        await asyncio.gather(*(self.empty(name, send) for name, send in senders.items()))
        had = {name: item is not None and item.id in self._accepted for name, item in items.items()}
        self._own -= own
        self._accepted -= own
        return had

    async def empty(self, name: str, send: Send) -> None:
        """Send what waits for `name` until nothing does or a try fails."""
        box = self.box()
        async with self._turns.setdefault(name, asyncio.Lock()):
            while heads := box.heads(name):
                item = heads[0]
                try:
                    await asyncio.to_thread(send, item.notification)
                except DeliveryError as error:
                    told = error.told()
                    _log.error("alert not sent", destination=name, error=told)
                    if not error.permanent:
                        box.failed(item, str(error), UnixTime(self._clock.now() + SLOW_RETRY))
                        break
                    box.undeliverable(item, str(error))
                else:
                    box.accepted(item)
                    if item.id in self._own:
                        self._accepted.add(item.id)
                await box.flush()
            await box.flush()

    def close(self) -> None:
        """Let go of the folder."""
        if self._box is not None:
            self._box.close()
        self._stack.close()
