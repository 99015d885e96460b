"""A folder store tells the truth about a folder that others write at the same time."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import fs
from agent.bundles.errors import MissingError, RejectedError, StoreError
from agent.bundles.manifest import channel_document
from agent.bundles.model import Desired
from agent.bundles.stores.base import Store
from agent.bundles.stores.folder import FolderStore
from agent.units import Version

V = Version("v1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    (root / "bundles" / "v1" / "deep").mkdir(parents=True)
    (root / "channels").mkdir()
    (root / "bundles" / "v1" / "policy.pt").write_bytes(b"weights")
    (root / "bundles" / "v1" / "deep" / "x").write_bytes(b"x")
    (root / "bundles" / "v1" / "manifest.json").write_bytes(b"{}")
    (root / "channels" / "production.json").write_bytes(channel_document(V, None))
    return root


def test_it_tells_what_is_wanted_and_holds_the_files(root: Path) -> None:
    store: Store = FolderStore(root)
    assert store.desired("production") == Desired(V)
    assert store.desired("staging") is None
    assert [(file.path, file.size) for file in store.files(V)] == [("deep/x", 1), ("policy.pt", 7)]
    assert store.manifest(V) == b"{}"
    with store.open(V, "policy.pt") as file:
        assert file.read() == b"weights"


def test_a_version_without_manifest_is_told_apart_from_no_such_version(root: Path) -> None:
    store = FolderStore(root)
    (root / "bundles" / "v1" / "manifest.json").unlink()
    assert store.manifest(V) is None
    for ask in (store.manifest, store.files):
        with pytest.raises(MissingError, match="v2"):
            ask(Version("v2"))
    with pytest.raises(MissingError, match="nothing.pt"):
        store.open(V, "nothing.pt")


def test_a_store_that_is_missing_is_an_error_with_a_remedy_and_not_an_empty_store(
    tmp_path: Path,
) -> None:
    store = FolderStore(tmp_path / "no")
    (tmp_path / "file").touch()
    for broken in (store, FolderStore(tmp_path / "file")):
        with pytest.raises(StoreError) as told:
            broken.desired("production")
        assert told.value.remedy
        assert not isinstance(told.value, MissingError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_store_that_is_unreadable_is_an_error_with_a_remedy(root: Path) -> None:
    (root / "channels").chmod(0)
    try:
        with pytest.raises(StoreError, match="Permission denied"):
            FolderStore(root).desired("production")
    finally:
        (root / "channels").chmod(0o755)


@pytest.mark.parametrize("kept", range(0, 30, 3))
def test_a_channel_document_that_is_half_written_is_a_store_error(root: Path, kept: int) -> None:
    whole = channel_document(V, None)
    assert kept < len(whole) - 1
    (root / "channels" / "production.json").write_bytes(whole[:kept])
    with pytest.raises(StoreError) as told:
        FolderStore(root).desired("production")
    assert told.value.remedy


@pytest.mark.parametrize("channel", ["", "../bundles/v1/manifest", "a/b", ".x", "a\n"])
def test_a_channel_name_cannot_lead_elsewhere(root: Path, channel: str) -> None:
    with pytest.raises(StoreError, match="channel name"):
        FolderStore(root).desired(channel)


@pytest.mark.parametrize("version", ["..", "../channels", "v1/deep", "", "/etc"])
def test_a_version_cannot_lead_elsewhere(root: Path, version: str) -> None:
    with pytest.raises(RejectedError):
        FolderStore(root).files(Version(version))


@pytest.mark.parametrize("path", ["../../channels/production.json", "/etc/hostname", "deep/../x"])
def test_a_path_cannot_lead_elsewhere(root: Path, path: str) -> None:
    with pytest.raises(RejectedError):
        FolderStore(root).open(V, path)


def test_nothing_is_read_through_a_link(root: Path) -> None:
    store = FolderStore(root)
    folder = root / "bundles" / "v1"
    (folder / "passwd").symlink_to("/etc/passwd")
    (folder / "etc").symlink_to("/etc")
    for path in ("passwd", "etc/passwd"):
        with pytest.raises(RejectedError, match="link"):
            store.open(V, path)
    with pytest.raises(RejectedError, match="link"):
        store.files(V)
    (root / "bundles" / "v2").symlink_to(folder)
    with pytest.raises(StoreError, match="v2"):
        store.files(Version("v2"))
    (root / "channels" / "x.json").symlink_to("/etc/hostname")
    with pytest.raises((StoreError, RejectedError)):
        store.desired("x")


def test_a_pipe_does_not_hang_the_reader(root: Path) -> None:
    os.mkfifo(root / "bundles" / "v1" / "pipe")
    with pytest.raises(RejectedError):
        FolderStore(root).open(V, "pipe")


def test_asking_leaves_no_descriptor_open(root: Path) -> None:
    store = FolderStore(root)
    (root / "channels" / "bad.json").write_bytes(b"{")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        store.desired("production")
        store.manifest(V)
        store.files(V)
        with pytest.raises(StoreError):
            store.desired("bad")
        with pytest.raises(MissingError):
            store.files(Version("v9"))
        with pytest.raises(MissingError):
            store.open(V, "deep/none")
    assert len(os.listdir("/proc/self/fd")) == before


@contextmanager
def watched(root: Path) -> Iterator[threading.Event]:
    told = threading.Event()
    watch = FolderStore(root).watch(told.set)
    assert watch is not None
    try:
        yield told
    finally:
        watch.close()


def test_a_replaced_channel_document_and_a_new_version_are_told(root: Path) -> None:
    with watched(root) as told:
        fs.write_durable(root / "channels" / "production.json", channel_document(V, None))
        assert told.wait(10)
        told.clear()
        shutil.copytree(root / "bundles" / "v1", root / ".away")
        (root / ".away").rename(root / "bundles" / "v2")
        assert told.wait(10)


def test_reading_the_store_is_no_change(root: Path) -> None:
    calls: list[float] = []
    told = threading.Event()

    def changed() -> None:
        calls.append(time.monotonic())
        told.set()

    watch = FolderStore(root).watch(changed)
    assert watch is not None
    try:
        store = FolderStore(root)
        for _ in range(3):
            store.desired("production")
            store.files(V)
            store.manifest(V)
        (root / "bundles" / "v3").mkdir()  # one event, behind whatever the reads would have made
        assert told.wait(10)
        assert len(calls) == 1
    finally:
        watch.close()


def test_a_store_that_comes_later_goes_and_comes_back_is_watched_each_time(tmp_path: Path) -> None:
    root = tmp_path / "mount" / "store"
    with watched(root) as told:
        for _ in range(2):
            (root / "bundles").mkdir(parents=True)
            (root / "channels").mkdir()
            deadline = time.monotonic() + 20
            seen = False
            while not seen and time.monotonic() < deadline:
                told.clear()  # watching what has just appeared takes a moment: ask again
                fs.write_durable(root / "channels" / "p.json", channel_document(V, None))
                seen = told.wait(1)
            assert seen
            shutil.rmtree(tmp_path / "mount")


def test_no_call_comes_after_a_watch_is_closed(root: Path) -> None:
    with watched(root) as told:
        pass
    told.clear()
    fs.write_durable(root / "channels" / "production.json", channel_document(V, None))
    assert not told.wait(0.2)
    assert not [thread for thread in threading.enumerate() if "inotify" in thread.name.lower()]
