"""Publish a whole set of secrets into one directory by one rename.

    DIR/..data -> ..gen-000042          the one atomic rename that publishes a generation
    DIR/..gen-000042/database/main.json
    DIR/database -> ..data/database     stable entry links

Steps of `publish`:
1. refuse a directory that is not on tmpfs (or ramfs), unless disk is allowed, and one that holds
   somebody else's files
2. sweep what a killed attempt left: temporary names, generations that `..data` never pointed at
3. compare with the live generation: same content, modes, owners and links → nothing is flipped
4. check that the set is not larger than allowed and fits into the free space
5. write `..gen-N+1`: every open is relative to a directory descriptor, exclusive and follows no
   link; group and mode are set on the descriptor before the bytes; the index comes last
6. make missing entry links (they lead nowhere until the flip)
7. flip `..data` by symlink and rename under a random name
8. remove the links of entries that are gone
9. delete old generations whose time is over

A reader sees one generation or the next, never a mixture; a crash at any step leaves one of the
two, whole. The files of one generation are written, read and compared in `tree`, the links made in
`links`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from agent import fs
from agent.clock import Clock
from agent.errors import BusyError
from agent.secrets import confirmed, links, tree
from agent.secrets.errors import PublishError
from agent.secrets.links import DATA
from agent.secrets.tree import INDEX, Item, Look
from agent.telemetry.logs import get_logger
from agent.units import Bytes, Monotonic, Seconds, UnixTime

_log = get_logger(__name__)

_GENERATION = re.compile(r"\.\.gen-(\d{6,})")
_MEMORY = ("tmpfs", "ramfs")
_RESERVE = 64 * 1024
_PAGE = 4096  # tmpfs gives whole pages
_LOCK_WAIT = Seconds(5.0)
_SETTLED = Seconds(0.05)
"""Longer than the tick that a file system's time stamps move by."""


@dataclass(frozen=True, slots=True)
class Published:
    """How a publication ended."""

    generation: int
    changed: bool
    files: int
    repaired: tuple[str, ...] = ()


@dataclass(slots=True)
class Publisher:
    """The writer of `directory`. Not for use from two threads at once; other processes may."""

    directory: Path
    clock: Clock
    file_mode: int = 0o400
    dir_mode: int = 0o700
    keep: int = 2
    keep_for: Seconds = field(default=Seconds(60.0))
    allow_disk: bool = False
    owner: int | None = None
    group: int | None = None
    max_size: Bytes = field(default=Bytes(16 * 1024 * 1024))
    published_at: UnixTime | None = None
    _retired: dict[str, Monotonic] = field(default_factory=dict)
    _shown: dict[str, str] = field(default_factory=dict)
    _clean: tuple[object, ...] | None = None
    _closed: bool = False
    _digest_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def publish(self, items: Mapping[str, Item], keep: Collection[str] = ()) -> Published:
        """Make the directory show exactly `items`, and those of `keep` that it shows already.

        Raises:
            PublishError: nothing was flipped; the generation before is as it was.
        """
        try:
            self._prepare()
            with self._locked():
                return self._publish(items, keep)
        except BusyError as error:
            raise PublishError(str(error), error.remedy) from None
        except OSError as error:
            raise PublishError(
                f"cannot publish secrets to {self.directory}: {error.strerror}",
                "what was published stays in place; make room or mend the directory's owner",
            ) from error

    def _publish(self, items: Mapping[str, Item], keep: Collection[str]) -> Published:
        if self._closed:
            raise PublishError(f"{self.directory} has been wiped", "start the agent again")
        live = self.live()
        self._sweep(live)
        if live and keep:
            items = {**items, **self.shown([path for path in keep if path not in items])}
        self._clean = None
        look = self._look()
        found = tree.compare(self.directory / live, items, look) if live else ()
        shown = {item.path: self._digest(item.data) for item in items.values()}
        if live and not found:
            mended = links.add(self.directory, items) | links.drop(self.directory, items)
            self._shown = shown
            self._retire(live)
            self._clean = self._signature()
            return Published(_number(live), False, len(items), tuple(mended))
        self._check_size(items)
        self._make_room(items, live)
        try:
            made = self._write(self._next_number(), items, look)
            mended = links.add(self.directory, items)
            fs.replace_link(self.directory / DATA, made, durable=False)
        except OSError:
            self._sweep(live)
            raise
        self.published_at = self.clock.now()
        damaged = self._shown == shown  # the same values were here: somebody else changed the files
        self._shown = shown
        mended |= links.drop(self.directory, items)
        self._retire(made)
        repaired = (*found, *sorted(mended)) if damaged else ()
        return Published(_number(made), True, len(items), repaired)

    def untouched(self) -> bool:
        """True when nothing below the directory was changed since the last full comparison.

        A handful of lstat calls: by inode, mode, owner, size and change time, which no process
        without privileges can set back. Writes through a shared memory map leave no such trace on
        tmpfs: the full comparison of `publish` is still due now and then.
        """
        clean = self._clean
        if clean is None:
            return False
        try:
            return self._signature() == clean
        except OSError:
            return False

    def tidy(self) -> None:
        """Delete old generations that no reader can still need; cheap, for a timer."""
        if not self._retired:
            return
        with suppress(OSError):
            live = self.live()
            if live is not None and self._retire(live) and self._clean is not None:
                self._clean = self._signature()

    def index(self) -> dict[str, dict[str, object]]:
        """What the live generation's index says of each file, by path; empty if there is none."""
        try:
            live = self.live()
            return tree.read_index(self.directory / live) if live else {}
        except OSError:
            return {}

    def shown(self, paths: Collection[str]) -> dict[str, Item]:
        """Files of the live generation, but those that somebody else has changed since we wrote
        them."""
        live = self.live()
        found = {}
        for path, item in tree.read_items(self.directory / live, paths).items() if live else ():
            wrote = self._shown.get(path)
            if wrote is None or wrote == self._digest(item.data):
                found[path] = item
        return found

    def live(self) -> str | None:
        """Name of the generation that `..data` points at, if it is there."""
        target = fs.read_link(self.directory / DATA)
        if target is None or not _GENERATION.fullmatch(target):
            return None
        is_there = (self.directory / target).is_dir() and not (self.directory / target).is_symlink()
        return target if is_there else None

    def live_number(self) -> int | None:
        """Number of the live generation, or None."""
        with suppress(OSError):
            live = self.live()
            return _number(live) if live else None
        return None

    def filesystem(self) -> str:
        """Type of the file system under the directory."""
        place = self.directory
        while not place.exists():
            place = place.parent
        return fs.filesystem_type(place)

    def wipe(self) -> None:
        """Remove everything that was ever published here, and publish nothing more.

        Raises:
            OSError, BusyError: something is still there.
        """
        self._clean, self._closed = None, True
        with self._locked():
            with os.scandir(self.directory) as found:
                entries = list(found)
            for entry in entries:
                ours = entry.is_symlink() and (entry.name == DATA or links.is_ours(entry))
                if ours or entry.name == confirmed.SEEN:
                    os.unlink(entry.path)
                elif _GENERATION.fullmatch(entry.name):
                    tree.remove(Path(entry.path))

    # -- steps ------------------------------------------------------------------------------

    def _prepare(self) -> None:
        kind = self.filesystem()
        if kind not in _MEMORY and not self.allow_disk:
            raise PublishError(
                f"secrets directory {self.directory} is on {kind}, not in memory",
                "mount a tmpfs there; on a development machine secrets.allow_disk permits disk",
            )
        self.directory.mkdir(mode=self.dir_mode, parents=True, exist_ok=True)
        seen = self.directory.lstat()
        if not stat.S_ISDIR(seen.st_mode):
            raise PublishError(
                f"secrets directory {self.directory} is no directory", "name the directory itself"
            )
        if not self.allow_disk and seen.st_uid not in (0, os.geteuid(), self.owner):
            raise PublishError(
                f"secrets directory {self.directory} belongs to uid {seen.st_uid}, who could "
                "exchange what is in it",
                "make it root's or the agent's own",
            )
        wanted = self.dir_mode | (seen.st_mode & stat.S_ISGID)
        look = self._look()
        given = self.owner is not None or self.group is not None
        mine = seen.st_uid == os.geteuid() or (given and os.geteuid() == 0)
        if mine and given and (seen.st_uid, seen.st_gid) != (look.uid, look.gid):
            os.chown(self.directory, look.uid, look.gid)
        if mine and stat.S_IMODE(seen.st_mode) != wanted:
            os.chmod(self.directory, wanted)
        if fs.read_link(self.directory / DATA) is None:
            self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        """Never take over a directory with somebody's files: entries in our way are replaced."""
        with os.scandir(self.directory) as entries:
            foreign = [
                entry.name
                for entry in entries
                if not entry.name.startswith(("..", fs.TEMP_PREFIX)) and not links.is_ours(entry)
            ]
        if foreign:
            raise PublishError(
                f"secrets directory {self.directory} holds {min(foreign)}, which is not ours",
                "name an empty directory, or one that does not exist yet",
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep an init container and a live sidecar from publishing at the same moment."""
        give_up = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                held = fs.lock(self.directory / "..lock", "a publication of secrets")
                held.__enter__()
                break
            except BusyError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.01)
        try:
            yield
        finally:
            held.__exit__(None, None, None)

    def _look(self) -> Look:
        uid = os.geteuid() if self.owner is None else self.owner
        gid = self._group() if self.group is None else self.group
        return Look(self.file_mode, self.dir_mode, uid, gid)

    def _group(self) -> int:
        """The directory's group where this process may give it: so a trader of that group reads."""
        group = self.directory.stat().st_gid
        mine = os.geteuid() == 0 or group in (os.getegid(), *os.getgroups())
        return group if mine else os.getegid()

    def _sweep(self, live: str | None) -> None:
        """Generations begun and never flipped go. Where `..data` itself was lost, whole ones stay
        for the readers inside them."""
        with suppress(OSError):
            fs.sweep(self.directory)
            newest = _number(live) if live else 0
            for name in self._generations():
                whole = live is None and os.path.lexists(self.directory / name / INDEX)
                if _number(name) > newest and not whole:
                    tree.remove(self.directory / name)

    def _generations(self) -> list[str]:
        with os.scandir(self.directory) as entries:
            return sorted((e.name for e in entries if _GENERATION.fullmatch(e.name)), key=_number)

    def _next_number(self) -> int:
        names = self._generations()
        return _number(names[-1]) + 1 if names else 1

    def _check_size(self, items: Mapping[str, Item]) -> None:
        total = sum(len(item.data) for item in items.values())
        if total > self.max_size:
            largest = max(items.values(), key=lambda item: len(item.data))
            raise PublishError(
                f"the secrets are {total} bytes and at most {self.max_size} may be published; the "
                f"largest is {largest.name} with {len(largest.data)}",
                "raise secrets.max_size, and the memory volume with it",
            )

    def _make_room(self, items: Mapping[str, Item], live: str | None) -> None:
        """Check that the set fits. Where it does not, old generations go before their time, oldest
        first and the newest `keep` last: said aloud, for a reader may be inside."""
        needed = _RESERVE + sum(
            (len(item.data) // _PAGE + 2) * _PAGE + 512 for item in items.values()
        )
        old = [name for name in self._generations() if name != live]
        for name in old:
            if fs.free_bytes(self.directory) >= needed:
                return
            self._retired.pop(name, None)
            tree.remove(self.directory / name)
            _log.warning(
                "an old generation of secrets was deleted before its time: its volume is full",
                generation=_number(name),
                last_resort=name in old[-self.keep :],
            )
        free = fs.free_bytes(self.directory)
        if free < needed:
            raise PublishError(
                f"{self.directory} has {free} bytes free and the next generation needs {needed}",
                "give the memory volume at least four times the size of the largest set",
            )

    def _write(self, number: int, items: Mapping[str, Item], look: Look) -> str:
        name = f"..gen-{number:06d}"
        os.mkdir(self.directory / name, 0o700)
        root = os.open(self.directory / name, tree.OPEN_DIR)
        try:
            index = {}
            for item in items.values():
                tree.write_file(root, item.path, item.data, look.of(item), look)
                index[item.path] = item.described(self._digest(item.data))
            told = json.dumps({"generation": number, "files": index}, sort_keys=True).encode()
            tree.write_file(root, INDEX, told, look)
            tree.dress(root, look.dir_mode, look)
        finally:
            os.close(root)
        return name

    def _digest(self, data: bytes) -> str:
        """Keyed, with a key that never leaves the process: a short secret cannot be guessed."""
        return "hmac-sha256:" + hmac.new(self._digest_key, data, hashlib.sha256).hexdigest()

    def _retire(self, live: str) -> bool:
        """Delete old generations that have been old for `keep_for`; True if one went."""
        now = self.clock.monotonic()
        newest = _number(live)  # a later one is being written by another process
        old = [name for name in self._generations() if _number(name) < newest]
        self._retired = {name: self._retired.get(name, now) for name in old}
        gone = [name for name, since in self._retired.items() if now - since >= self.keep_for]
        for name in gone:
            tree.remove(self.directory / name)
            del self._retired[name]
        return bool(gone)

    def _signature(self) -> tuple[object, ...] | None:
        """A mark of everything published, or None where a change is too recent to be told apart."""
        live = self.live()
        if live is None:
            return None
        marks, newest = tree.marks(self.directory, live)
        settled = abs(time.time() - newest) > _SETTLED
        return (live, *marks) if settled else None


def _number(name: str) -> int:
    match = _GENERATION.fullmatch(name)
    return int(match.group(1)) if match else 0
