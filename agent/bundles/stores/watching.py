"""Watch folders that may not exist yet, by inotify.

What exists of the root and its watched subfolders is watched; while the root is missing, its
nearest existing ancestor is. After each event the set is made again, so a store that is mounted,
removed or replaced later is picked up. A change that inotify does not tell (a network file system,
another node's write) is for the caller's slow poll.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchdog.events import (
    EVENT_TYPE_DELETED,
    EVENT_TYPE_MOVED,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

from agent.fs import TEMP_PREFIX

_CHANGES: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]
"""Not opening and closing: our own reads would wake us for ever."""

_TRIES = 8


class FolderWatch(FileSystemEventHandler):
    """A running watch of `root` and its `subfolders`; `changed` is called from its thread."""

    def __init__(
        self, root: Path, subfolders: tuple[str, ...], changed: Callable[[], None]
    ) -> None:
        self._root, self._subfolders, self._changed = root, subfolders, changed
        self._lock = threading.Lock()
        self._closed = False
        self._watches: dict[Path, tuple[ObservedWatch, tuple[int, int]]] = {}
        self._observer = Observer()
        self._observer.start()
        self._arm()

    def close(self) -> None:
        """Stop it; no call-back comes afterwards."""
        with self._lock:
            self._closed = True
        self._observer.stop()
        self._observer.join()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """A watched folder changed: watch what is there now, then tell."""
        for path in (event.src_path, event.dest_path):
            if path and event.event_type in (EVENT_TYPE_DELETED, EVENT_TYPE_MOVED):
                self._forget(Path(os.fsdecode(path)))
        self._arm()
        last = os.fsdecode(event.dest_path or event.src_path)
        if os.path.basename(last).startswith(TEMP_PREFIX):
            return  # a write under way; its rename will be told
        with self._lock:
            if not self._closed:
                self._changed()

    def _forget(self, gone: Path) -> None:
        """End the watches of a folder that is gone; another may have its name and inode now."""
        for path in list(self._watches):
            if path == gone or gone in path.parents:
                self._unwatch(path)

    def _unwatch(self, path: Path) -> None:
        watch, _ = self._watches.pop(path)
        with suppress(KeyError, OSError):
            self._observer.unschedule(watch)

    def _arm(self) -> None:
        """Watch exactly the folders that exist, and again what appeared while that was done."""
        wanted = self._wanted()
        for _ in range(_TRIES):
            self._watch_only(wanted)
            before, wanted = wanted, self._wanted()
            if wanted == before:
                return

    def _watch_only(self, wanted: dict[Path, tuple[int, int]]) -> None:
        for path, (_, identity) in list(self._watches.items()):
            if wanted.get(path) != identity:
                self._unwatch(path)
        for path, identity in wanted.items():
            if path not in self._watches:
                with suppress(OSError):  # gone again, or no watches left: the poll remains
                    watch = self._observer.schedule(self, str(path), event_filter=_CHANGES)
                    self._watches[path] = (watch, identity)

    def _wanted(self) -> dict[Path, tuple[int, int]]:
        found: dict[Path, tuple[int, int]] = {}
        for path in (self._root, *(self._root / name for name in self._subfolders)):
            with suppress(OSError):
                status = os.stat(path)
                found[path] = (status.st_dev, status.st_ino)
        # the parent as well: it is what tells that the root itself came, went or was replaced
        for parent in self._root.parents:
            with suppress(OSError):
                status = os.stat(parent)
                found[parent] = (status.st_dev, status.st_ino)
                break
        return found
