"""Files that hold a key or a passphrase: read only where nobody else can read or plant them.

The file must be a regular one that root or the agent's own uid owns, closed to group and others.
One exception lets a pod that does not run as root use a key from a Kubernetes secret volume: a file
of root's may be readable by a group that the agent is in. A link is followed only if root or the
agent's own uid made it.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path

from agent.secrets.errors import KeyFileError
from agent.secrets.providers.sealed import KEY_BYTES

_MAX_BYTES = 4096


def read_private(path: Path) -> bytes:
    """The bytes of a file that nobody else can read.

    Raises:
        KeyFileError: missing, another's link, no regular file, owned by another, too large, or
            open to group or others.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | _follow(path))
    except OSError as error:
        raise KeyFileError(
            f"key file {path}: {error.strerror}",
            "name a regular file that the agent's uid owns; `jules-agent secrets new-key` makes a"
            " key",
        ) from None
    try:
        _check(path, os.fstat(fd))
        data = os.read(fd, _MAX_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > _MAX_BYTES:
        raise KeyFileError(f"key file {path} is larger than {_MAX_BYTES} bytes", "is it a key?")
    return data


def _follow(path: Path) -> int:
    seen = path.lstat()
    if stat.S_ISLNK(seen.st_mode) and seen.st_uid in (0, os.geteuid()):
        return 0
    return os.O_NOFOLLOW


def _check(path: Path, seen: os.stat_result) -> None:
    if not stat.S_ISREG(seen.st_mode):
        raise KeyFileError(f"key file {path} is not a regular file", "name one that is")
    if seen.st_uid not in (0, os.geteuid()):
        raise KeyFileError(
            f"key file {path} belongs to another user", "chown it to the agent's uid"
        )
    projected = seen.st_uid == 0 != os.geteuid() and seen.st_gid in (os.getegid(), *os.getgroups())
    if seen.st_mode & (0o037 if projected else 0o077):
        raise KeyFileError(
            f"key file {path} can be read or written by others", f"chmod 0400 {path}"
        )


def parse_key(data: bytes, path: Path) -> bytes:
    """32 bytes: raw, as 64 hex digits, or as base64.

    Raises:
        KeyFileError: it is none of them.
    """
    if len(data) == KEY_BYTES:
        return data
    text = data.strip()
    for decode in (binascii.unhexlify, lambda raw: base64.b64decode(raw, validate=True)):
        try:
            key = decode(text)
        except (binascii.Error, ValueError):
            continue
        if len(key) == KEY_BYTES:
            return key
    raise KeyFileError(
        f"key file {path} holds no 32-byte key",
        "make one: jules-agent secrets new-key FILE (raw, hex and base64 are read)",
    )
