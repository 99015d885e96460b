"""What is published is whole, proved, and never changed afterwards."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent import fs
from agent.bundles import publish as module
from agent.bundles.errors import RejectedError, StoreError
from agent.bundles.manifest import build_manifest, parse_manifest
from agent.bundles.publish import publish
from agent.bundles.stores.folder import FolderStore
from agent.bundles.validation import validate_bundle
from agent.configpod import Limits
from agent.units import Version
from tests.bundles.hostile import HOSTILE

DEMO = Path(__file__).parents[2] / "agent" / "demo" / "bundles"
OLD, NEW = "v2025-07-06", "v2025-07-08"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO / OLD, tmp_path / "source"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def leftovers(store: Path) -> list[str]:
    return [str(path) for path in store.rglob(fs.TEMP_PREFIX + "*")]


def test_a_published_bundle_is_what_a_store_reads_and_a_validator_passes(
    source: Path, store: Path
) -> None:
    (source / "deep").mkdir()
    (source / "deep" / "notes.txt").write_text("x")
    manifest = publish(source, store, OLD, "production")
    there = FolderStore(store)
    desired = there.desired("production")
    assert desired is not None
    assert (desired.version, desired.digest) == (OLD, manifest.digest)
    raw = there.manifest(Version(OLD))
    assert raw == manifest.raw
    folder = store / "bundles" / OLD
    assert build_manifest(folder, Version(OLD)) == parse_manifest(raw)
    validate_bundle(folder, manifest, limits=Limits(), version=Version(OLD))
    assert not leftovers(store)


def test_modes_do_not_depend_on_the_publishers_umask(source: Path, store: Path) -> None:
    (source / "deep").mkdir()
    (source / "deep" / "notes.txt").write_text("x")
    store.mkdir()
    before = os.umask(0o077)
    try:
        publish(source, store, OLD, "production")
    finally:
        os.umask(before)
    folder = store / "bundles" / OLD
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o444}
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / "deep")} == {0o755}
    assert (store / "channels" / "production.json").stat().st_mode & 0o777 == 0o644


def test_the_same_again_is_fine_and_can_go_to_another_channel(source: Path, store: Path) -> None:
    first = publish(source, store, OLD, "staging")
    inode = (store / "bundles" / OLD / "policy.pt").stat().st_ino
    again = publish(source, store, OLD, "production")
    assert again == first
    assert (store / "bundles" / OLD / "policy.pt").stat().st_ino == inode
    assert FolderStore(store).desired("production") == FolderStore(store).desired("staging")


@pytest.mark.parametrize("damage", ["other content", "a file gone", "no manifest"])
def test_a_version_that_is_out_with_other_content_is_never_changed(
    source: Path, store: Path, damage: str
) -> None:
    publish(source, store, OLD, "staging")
    there = store / "bundles" / OLD
    if damage == "other content":
        (source / "README.md").write_text("another")
    else:
        (there / ("README.md" if damage == "a file gone" else "manifest.json")).unlink()
    before = {path.name: path.read_bytes() for path in there.iterdir()}
    with pytest.raises(RejectedError, match="other content") as told:
        publish(source, store, OLD, "production")
    assert "new version" in told.value.remedy
    assert {path.name: path.read_bytes() for path in there.iterdir()} == before
    assert FolderStore(store).desired("production") is None


def test_a_bad_bundle_is_refused_before_the_store_is_touched(source: Path, store: Path) -> None:
    (source / "risk.pkl").write_bytes(HOSTILE["STACK_GLOBAL os.system"])
    with pytest.raises(RejectedError, match=r"risk\.pkl"):
        publish(source, store, OLD, "production")
    assert not store.exists()


@pytest.mark.parametrize(("version", "channel"), [("../x", "p"), (NEW, "p"), (OLD, "../p")])
def test_a_name_that_does_not_fit_is_refused(
    source: Path, store: Path, version: str, channel: str
) -> None:
    with pytest.raises((RejectedError, StoreError)):
        publish(source, store, version, channel)
    assert not store.exists()


def test_a_source_that_changes_while_it_is_copied_is_refused(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = module._copy

    def change_and_copy(*arguments: object) -> object:
        (source / "README.md").write_text("another")
        return copy(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_copy", change_and_copy)
    with pytest.raises(RejectedError, match="changed while"):
        publish(source, store, OLD, "production")
    assert FolderStore(store).desired("production") is None
    assert not leftovers(store)
    assert not (store / "bundles" / OLD).exists()


def test_a_store_that_cannot_be_written_is_told_as_such(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as told:
        publish(source, tmp_path / "file" / "store", OLD, "production")
    assert told.value.remedy


def test_what_a_dead_publisher_left_is_removed_and_what_a_living_one_holds_is_not(
    source: Path, store: Path
) -> None:
    dead, alive = (store / "bundles" / fs.temp_name() for _ in range(2))
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / "policy.pt").write_bytes(b"half")
    fd = os.open(alive, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        publish(source, store, OLD, "production")
    finally:
        os.close(fd)
    assert not dead.exists()
    assert (alive / "policy.pt").exists()


CALLS = ("mkdir", "fsync", "fchmod", "write", "rename", "replace")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("nth", [1, 3, 7])
def test_a_publisher_killed_at_any_call_leaves_the_channel_on_a_whole_version(
    source: Path, store: Path, call: str, nth: int
) -> None:
    publish(source, store, OLD, "production")
    program = f"""
import os, signal, sys
from pathlib import Path
from agent.bundles.publish import publish
real, seen = os.{call}, 0
def killed(*arguments, **named):
    global seen
    seen += 1
    if seen == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
os.{call} = killed
publish(Path(sys.argv[1]), Path(sys.argv[2]), {NEW!r}, "production")
"""
    command = [sys.executable, "-c", program, str(DEMO / NEW), str(store)]
    ended = subprocess.run(command, check=False, timeout=60).returncode
    assert ended in (-signal.SIGKILL, 0)
    there = FolderStore(store)
    desired = there.desired("production")
    assert desired is not None
    raw = there.manifest(desired.version)
    assert raw is not None
    manifest = parse_manifest(raw)
    assert manifest.digest == desired.digest
    assert build_manifest(store / "bundles" / desired.version, desired.version) == manifest
    publish(DEMO / NEW, store, NEW, "production")
    fs.sweep(store / "channels")
    assert not leftovers(store)


def test_the_command_publishes_and_says_what(source: Path, store: Path) -> None:
    command = [sys.executable, "-m", "agent", "bundle", "publish", str(source), "--json"]
    where = ["--store", str(store), "--channel", "demo"]
    done = subprocess.run([*command, *where], capture_output=True, check=True, timeout=60)
    told = json.loads(done.stdout)
    assert (told["version"], told["files"]) == (OLD, 6)
    (source / "policy.pt").write_bytes(b"half")
    refused = subprocess.run([*command, *where], capture_output=True, check=False, timeout=60)
    assert refused.returncode == 4
    assert b"policy.pt" in refused.stderr
