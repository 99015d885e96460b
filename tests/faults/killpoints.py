"""Kill -9 at the n-th call into the file system: a forked child dies there, its disk stays.

`kill_everywhere(work)` runs `work` in one forked child a call: the child counts its calls of the
`os` functions that change a file system, or sync it, and sends itself SIGKILL before the n-th one
(and, in a second round, right after it). The last child is the one that needs no killing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

CALLS = (
    *("open", "write", "fsync", "close", "fchmod", "chmod"),
    *("mkdir", "rename", "replace", "symlink", "link", "unlink", "rmdir"),
)


def kill_everywhere(
    prepare: Callable[[], Any], work: Callable[[Any], None], *, after: bool
) -> Iterator[Any]:
    """For each call that `work` makes: prepare, run, die there; yields what `prepare` gave.

    Raises:
        AssertionError: a child failed by itself.
    """
    number = 0
    while True:
        number += 1
        prepared = prepare()
        if not _dies(lambda made=prepared: work(made), number, after=after):  # type: ignore[misc]
            assert number > 1
            return
        yield prepared


def _dies(work: Callable[[], None], number: int, *, after: bool) -> bool:
    """Whether the child died at call `number`; False when it ended before."""
    child = os.fork()
    if child == 0:
        code = 9
        try:
            _arm(number, after=after)
            work()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return False


def _arm(number: int, *, after: bool) -> None:
    left = [number]

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            mine = left[0] == 0
            if mine and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*arguments, **named)
            finally:  # a call that failed was made all the same
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return counted

    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name)))
