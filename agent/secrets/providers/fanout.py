"""Several blocking calls at once, on threads that end with the calls.

The callers' deadlines end the calls, so no thread is ever left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def fan_out(work: Callable[[T], None], items: Iterable[T], workers: int) -> None:
    """Call `work` with every item, by up to `workers` threads, this one among them.

    Raises:
        Exception: the first that `work` raised, after every thread has ended.
    """
    pending = list(items)
    pending.reverse()
    faults: list[BaseException] = []

    def run() -> None:
        try:
            while pending and not faults:
                try:
                    item = pending.pop()
                except IndexError:  # another thread took the last one
                    return
                work(item)
        except BaseException as error:  # noqa: BLE001 - raised again below, on the caller's thread
            faults.append(error)

    threads = [
        threading.Thread(target=run, name="secret-read", daemon=True)
        for _ in range(min(workers, len(pending)) - 1)
    ]
    for thread in threads:
        thread.start()
    run()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
