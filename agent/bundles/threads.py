"""Blocking work off the loop, finished even when its caller is cancelled.

A thread cannot be stopped. Were a cancelled caller to leave at once, a flip or a copy would go on
behind the back of whoever runs next; so it waits for the thread, and leaves then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work`, run in a worker thread."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue  # asked again: the thread still has to end
        if not running.cancelled():
            running.exception()  # looked at, so that nobody warns of it
        raise
