"""Publish a whole set of secrets into one directory by one rename.

    DIR/..data -> ..gen-000042          the one atomic rename that publishes a generation
    DIR/..gen-000042/database/main.json
    DIR/database -> ..data/database     stable entry links

Steps of `publish`:
1. refuse a directory that is not on tmpfs (or ramfs), unless disk is allowed
2. sweep what a killed attempt left: temporary names, generations that `..data` never pointed at
3. compare with the live generation: same content, modes and links → nothing is flipped
4. check that the set fits into the free space
5. write `..gen-N+1`: every open is relative to a directory descriptor, exclusive and follows no
   link; the mode is set on the descriptor before the bytes; the index comes last
6. flip `..data` by symlink and rename under a random name
7. make missing entry links, remove those of entries that are gone
8. delete old generations past their time, and all but the newest few in any case

A reader sees one generation or the next, never a mixture; a crash at any step leaves the old one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from agent import fs
from agent.clock import Clock
from agent.errors import BusyError
from agent.secrets.errors import PublishError
from agent.units import Seconds, UnixTime

DATA = "..data"
INDEX = ".index.json"
_GENERATION = re.compile(r"\.\.gen-(\d{6,})")
_MEMORY = ("tmpfs", "ramfs")
_RESERVE = 64 * 1024
_LOCK_WAIT = Seconds(5.0)


@dataclass(frozen=True, slots=True, repr=False)
class Item:
    """One file of a generation: its path below the directory, bytes, and what the index tells."""

    path: str
    data: bytes
    name: str
    version: str
    provider: str
    fetched_at: UnixTime


@dataclass(frozen=True, slots=True)
class Published:
    """How a publication ended."""

    generation: int
    changed: bool
    files: int
    repaired: tuple[str, ...] = ()


@dataclass(slots=True)
class Publisher:
    """The one writer of `directory`. Not for use from two threads at once."""

    directory: Path
    clock: Clock
    file_mode: int = 0o400
    dir_mode: int = 0o700
    keep: int = 2
    keep_for: Seconds = field(default=Seconds(60.0))
    allow_disk: bool = False
    published_at: UnixTime | None = None
    _retired: dict[str, float] = field(default_factory=dict)
    _shown: dict[str, str] = field(default_factory=dict)
    _digest_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def publish(self, items: Mapping[str, Item]) -> Published:
        """Make the directory show exactly `items`.

        Raises:
            PublishError: nothing was flipped; the generation before is as it was.
        """
        try:
            self._prepare()
            with self._locked():
                return self._publish(items)
        except OSError as error:
            raise PublishError(
                f"cannot publish secrets to {self.directory}: {error.strerror}",
                "the generation before is still in place; make room or mend the directory's owner",
            ) from error

    def _publish(self, items: Mapping[str, Item]) -> Published:
        live = self.live()
        self._sweep(live)
        drift = self._drift(live, items) if live else ()
        links = self._link_entries(items) if live else ()
        shown = {item.path: self._digest(item) for item in items.values()}
        if live and not drift:
            self._shown = shown
            self._retire(live)
            return Published(_number(live), changed=False, files=len(items), repaired=links)
        self._make_room(items)
        try:
            made = self._write(self._next_number(), items)
        except OSError:
            self._sweep(live)
            raise
        fs.replace_link(self.directory / DATA, made, durable=False)
        self.published_at = self.clock.now()
        self._link_entries(items)
        self._retire(made)
        damaged = self._shown == shown  # the same values were here: somebody else changed the files
        self._shown = shown
        repaired = (*drift, *links) if damaged else ()
        return Published(_number(made), True, len(items), repaired)

    def tidy(self) -> None:
        """Delete old generations that no reader can still need; cheap, for a timer."""
        live = self.live()
        if live is not None:
            self._retire(live)

    def live(self) -> str | None:
        """Name of the generation that `..data` points at, if it is there."""
        target = fs.read_link(self.directory / DATA)
        if target is None or not _GENERATION.fullmatch(target):
            return None
        return target if (self.directory / target).is_dir() else None

    def filesystem(self) -> str:
        """Type of the file system under the directory."""
        place = self.directory
        while not place.exists():
            place = place.parent
        return fs.filesystem_type(place)

    def wipe(self) -> None:
        """Remove everything that was ever published here."""
        for entry in list(os.scandir(self.directory)):
            if entry.is_symlink():
                os.unlink(entry.path)
            elif _GENERATION.fullmatch(entry.name):
                _remove_tree(Path(entry.path))

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
            raise PublishError(f"secrets directory {self.directory} is no directory")
        if seen.st_uid == os.geteuid() and stat.S_IMODE(seen.st_mode) != self.dir_mode:
            os.chmod(self.directory, self.dir_mode)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep an init container and a live sidecar from publishing at the same moment."""
        give_up = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                with fs.lock(self.directory / "..lock", "a publication of secrets"):
                    yield
                    return
            except BusyError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.01)

    def _sweep(self, live: str | None) -> None:
        with suppress(OSError):
            fs.sweep(self.directory)
            newest = _number(live) if live else 0
            for name in self._generations():
                if _number(name) > newest:  # begun and never flipped
                    _remove_tree(self.directory / name)

    def _generations(self) -> list[str]:
        return sorted(
            (e.name for e in os.scandir(self.directory) if _GENERATION.fullmatch(e.name)),
            key=_number,
        )

    def _next_number(self) -> int:
        names = self._generations()
        return _number(names[-1]) + 1 if names else 1

    def _make_room(self, items: Mapping[str, Item]) -> None:
        """Check that the set fits; where it does not, let old generations go, oldest first."""
        page = 4096  # tmpfs gives whole pages
        needed = sum((len(item.data) // page + 2) * page for item in items.values()) + _RESERVE
        live = self.live()
        for old in [name for name in self._generations() if name != live]:
            if fs.free_bytes(self.directory) >= needed:
                break
            _remove_tree(self.directory / old)
        free = fs.free_bytes(self.directory)
        if free < needed:
            raise PublishError(
                f"{self.directory} has {free} bytes free and the next generation needs {needed}",
                "give the memory volume at least twice the size of the largest set",
            )

    def _write(self, number: int, items: Mapping[str, Item]) -> str:
        name = f"..gen-{number:06d}"
        os.mkdir(self.directory / name, 0o700)
        root = os.open(self.directory / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            index = {}
            for item in items.values():
                self._write_file(root, item.path, item.data)
                index[item.path] = self._described(item)
            told = json.dumps({"generation": number, "files": index}, sort_keys=True).encode()
            self._write_file(root, INDEX, told)
            os.fchmod(root, self.dir_mode)
        finally:
            os.close(root)
        return name

    def _write_file(self, root: int, path: str, data: bytes) -> None:
        *folders, leaf = path.split("/")
        here = os.dup(root)
        try:
            for folder in folders:
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700, dir_fd=here)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                below = os.open(folder, flags, dir_fd=here)
                os.close(here)
                here = below
                os.fchmod(here, self.dir_mode)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(leaf, flags, 0o600, dir_fd=here)
            try:
                os.fchmod(fd, self.file_mode)
                fs.write_all(fd, data)
            finally:
                os.close(fd)
        finally:
            os.close(here)

    def _described(self, item: Item) -> dict[str, object]:
        return {
            "name": item.name,
            "version": item.version,
            "provider": item.provider,
            "fetched_at": item.fetched_at,
            "digest": self._digest(item),
        }

    def _digest(self, item: Item) -> str:
        """Keyed, with a key that never leaves the process: a short secret cannot be guessed."""
        return "hmac-sha256:" + hmac.new(self._digest_key, item.data, hashlib.sha256).hexdigest()

    def _link_entries(self, items: Mapping[str, Item]) -> tuple[str, ...]:
        """Make the stable links what they should be; `("link",)` if something was not."""
        mended = False
        wanted = {item.path.split("/", 1)[0] for item in items.values()}
        for entry in list(os.scandir(self.directory)):
            if entry.name.startswith(".."):
                continue
            good = entry.is_symlink() and os.readlink(entry.path) == f"{DATA}/{entry.name}"
            if entry.name in wanted and good:
                wanted.discard(entry.name)
                continue
            mended = True
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)  # a real folder in a link's place hides the live one
            else:
                os.unlink(entry.path)
        for name in sorted(wanted):
            fs.replace_link(self.directory / name, f"{DATA}/{name}", durable=False)
        return ("link",) if mended or wanted else ()

    def _drift(self, live: str, items: Mapping[str, Item]) -> tuple[str, ...]:
        """What of the live generation is not as it should be: nothing, or `content`, `mode`,
        `stray`, `link`."""
        found: set[str] = set()
        root = self.directory / live
        seen: set[str] = set()
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = Path(folder) / name
                state = path.lstat()
                if stat.S_ISDIR(state.st_mode):
                    wanted_mode = self.dir_mode
                elif stat.S_ISREG(state.st_mode):
                    wanted_mode = self.file_mode
                    seen.add(str(path.relative_to(root)))
                else:
                    found.add("stray")
                    continue
                if stat.S_IMODE(state.st_mode) != wanted_mode:
                    found.add("mode")
        paths = {item.path for item in items.values()}
        if (
            seen - {INDEX} != paths
            or INDEX not in seen
            or any((root / item.path).read_bytes() != item.data for item in items.values())
        ):
            found.add("content")
        return tuple(sorted(found))

    def _retire(self, live: str) -> None:
        """Delete old generations past their time, and all but the newest `keep` in any case."""
        now = self.clock.monotonic()
        old = [name for name in self._generations() if name != live]
        for name in old:
            self._retired.setdefault(name, now)
        surplus = set(old[: max(0, len(old) - self.keep)])
        for name in old:
            if name in surplus or now - self._retired[name] >= self.keep_for:
                _remove_tree(self.directory / name)
                del self._retired[name]


def _number(name: str) -> int:
    match = _GENERATION.fullmatch(name)
    return int(match.group(1)) if match else 0


def _remove_tree(path: Path) -> None:
    """Delete a generation whatever its modes are."""
    for folder, _, _ in os.walk(path):
        with suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)
