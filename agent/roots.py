"""One agent a root: for its whole life the daemon holds a lock in the directory of secrets and in
the deployment root, so that two agents with different state folders never share one unawares.

`init` beside a living agent takes none of these: it takes turns by the locks of single changes.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path

from agent import fs
from agent.bundles.layout import AGENT_LOCK, Layout
from agent.config import Config
from agent.errors import AgentError, BusyError

_MEMORY = frozenset({"tmpfs", "ramfs"})


def hold(stack: ExitStack, config: Config) -> None:
    """Hold the roots of the jobs that are on until `stack` is closed.

    A root that cannot be used yet is passed over: its job says what is wrong with it.

    Raises:
        BusyError: another agent holds one; names its process.
    """
    if config.secrets.enabled:
        folder = config.secrets.directory
        with suppress(OSError):
            if config.secrets.allow_disk or _in_memory(folder):
                folder.mkdir(mode=config.secrets.dir_mode, parents=True, exist_ok=True)
        _hold(stack, folder / "..agent.lock", folder)
    if config.bundles.enabled:
        layout = Layout(config.bundles.root)
        with suppress(AgentError):
            layout.prepare()
        _hold(stack, layout.staging / AGENT_LOCK, layout.root)


def _in_memory(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return fs.filesystem_type(folder) in _MEMORY


def _hold(stack: ExitStack, path: Path, root: Path) -> None:
    try:
        stack.enter_context(fs.lock(path, f"work in {root}"))
    except BusyError:
        raise BusyError(
            f"another agent ({_holder(path)}) works in {root}",
            "stop it, or give this one a directory of its own",
        ) from None
    except OSError:
        return
    with suppress(OSError):  # a full volume: the lock holds, only its holder is not named
        path.write_text(f"{os.getpid()}\n")


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError):
        return f"pid {int(path.read_text())}"
    return "pid unknown"
