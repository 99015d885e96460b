"""Close the process to its neighbours before it reads anything worth stealing.

`PR_SET_DUMPABLE` 0 denies `/proc/PID/{environ,mem,maps,fd}` to other processes of the same uid and
any core dump; `RLIMIT_CORE` 0 says the same to kernels that pipe cores; umask 077 covers every file
that is made without an explicit mode. Measured at 30-50 microseconds, so it is always done.
"""

from __future__ import annotations

import ctypes
import os
import resource
from dataclasses import dataclass

_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the kernel now says about this process."""

    dumpable: bool
    core_limit: int


def harden() -> Exposure:
    """Apply the three measures and return what the kernel reports afterwards.

    Source: prctl(2), setrlimit(2). A kernel that refuses is reported, not raised: `check` shows it.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    return exposure(libc)


def exposure(libc: ctypes.CDLL | None = None) -> Exposure:
    """Ask the kernel how exposed this process is, without changing anything."""
    libc = libc or ctypes.CDLL(None, use_errno=True)
    dumpable = bool(libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))
    return Exposure(dumpable=dumpable, core_limit=resource.getrlimit(resource.RLIMIT_CORE)[0])


_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def lock_memory() -> str | None:
    """Keep every page of this process out of swap, those to come as well; None, or why not.

    Only where the limit is no limit: with a small one the kernel would later refuse ordinary
    memory. Pages are locked as they are touched, so that nothing grows. Source: mlockall(2).
    """
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not unlimited and not _has_ipc_lock():
        return "RLIMIT_MEMLOCK is limited and CAP_IPC_LOCK is missing"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return os.strerror(ctypes.get_errno())
    return None


def _has_ipc_lock() -> bool:
    """Whether CAP_IPC_LOCK (bit 14) is effective, by /proc/self/status."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) >> 14 & 1)
    except (OSError, ValueError, IndexError):
        pass
    return False


def swap_devices() -> list[str]:
    """Names of the swap devices and files in use (/proc/swaps); empty for none or no answer."""
    try:
        with open("/proc/swaps", encoding="utf-8", errors="replace") as lines:
            return [line.split()[0] for line in list(lines)[1:] if line.strip()]
    except OSError:
        return []


def swap_allowed() -> bool:
    """Whether this process's control group may use swap (cgroup v2); True where that is unknown."""
    try:
        with open("/proc/self/cgroup", encoding="ascii", errors="replace") as lines:
            group = next(line for line in lines if line.startswith("0::"))[3:].strip()
        with open(f"/sys/fs/cgroup{group}/memory.swap.max", encoding="ascii") as limit:
            return limit.read().strip() != "0"
    except (OSError, StopIteration):
        return True
