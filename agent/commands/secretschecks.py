"""What `check` looks at for the secrets job: where they are published, and who could see them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from agent.configsecrets import Secrets
from agent.errors import AgentError
from agent.hardening import lock_memory, swap_allowed, swap_devices

Told = tuple[Literal["good", "warn", "fail"], str, str]
"""Verdict, what was seen, what to do."""


def looks(config: Secrets) -> Iterator[Told]:
    """Directory, swap and templates of a configuration."""
    yield from _directory(config)
    yield from _swap(config)
    yield from _accounts(config)
    yield from _templates(config)


def _directory(config: Secrets) -> Iterator[Told]:
    directory = config.directory
    if not directory.exists():
        return
    seen = directory.stat()
    if not stat.S_ISDIR(seen.st_mode):
        yield "fail", f"secrets directory {directory} is no directory", "name the directory itself"
    elif seen.st_uid not in (0, os.geteuid()):
        what = f"secrets directory {directory} belongs to uid {seen.st_uid}"
        yield "warn", what, "make it root's or the agent's own"
    elif seen.st_mode & stat.S_IWOTH and seen.st_uid != os.geteuid():
        what = f"every user of the pod may write to {directory}, and the agent may not forbid it"
        yield "warn", what, "mount it with a mode of 2770 and the pod's fsGroup"
    else:
        what = f"secrets directory {directory}: uid {seen.st_uid}, {stat.filemode(seen.st_mode)}"
        yield "good", what, ""


def _swap(config: Secrets) -> Iterator[Told]:
    devices = swap_devices()
    if not devices:
        yield "good", "no swap: neither memory nor tmpfs ever reaches a disk", ""
        return
    if not swap_allowed():
        yield "good", "swap is on, and this control group may not use it", ""
        return
    if "noswap" in _options(config.directory):
        yield "good", f"swap is on; {config.directory} is mounted noswap", ""
    else:
        yield (
            "warn",
            f"swap is on ({', '.join(devices)}): files in {config.directory} can reach a disk",
            "mount it with noswap (Linux 6.4), or forbid the pod swap",
        )
    if not config.lock_memory:
        what = "swap is on: what the agent holds in memory can reach a disk"
        yield "warn", what, "set secrets.lock_memory, with CAP_IPC_LOCK; or forbid the pod swap"
        return
    problem = lock_memory()
    if problem is None:
        yield "good", "swap is on; the agent's memory is locked", ""
    else:
        what = f"swap is on and memory cannot be locked: {problem}"
        yield "warn", what, "give the container CAP_IPC_LOCK"


def _options(directory: Path) -> set[str]:
    """Options of the mount that holds `directory` (proc(5), mountinfo)."""
    while not directory.exists():
        directory = directory.parent
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            parts = before.split()
            if parts[2] == wanted:
                return {*parts[5].split(","), *after.split()[-1].split(",")}
    return set()


def _accounts(config: Secrets) -> Iterator[Told]:
    from agent.clock import SystemClock
    from agent.secrets.publishing import Publishing

    try:
        Publishing(config, SystemClock())
    except AgentError as error:
        yield "fail", str(error), error.remedy
        return
    foreign = config.owner or next((item.owner for item in config.items if item.owner), None)
    if foreign and os.geteuid() != 0:
        what = f"files are to belong to {foreign}, which only root can arrange"
        yield "warn", what, "share a group instead: file_mode 0440, dir_mode 0750"


def _templates(config: Secrets) -> Iterator[Told]:
    paths = sorted({item.template for item in config.items if item.template is not None})
    if not paths:
        return
    from agent.secrets.templates import check

    for path in paths:
        try:
            check(path)
        except AgentError as error:
            yield "fail", str(error), error.remedy
        else:
            yield "good", f"template {path} parses", ""
