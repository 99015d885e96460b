"""Readers against flips: whole versions, always."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agent import fs, reader

FLIPS = 10_000
READERS = 3

_READER = textwrap.dedent(
    """
    import sys
    from agent.reader import open_bundle

    root, stop = sys.argv[1:]
    reads = mixed = missing = 0
    seen = set()
    import os
    print("reading", flush=True)
    while not os.path.exists(stop):
        try:
            with open_bundle(root) as bundle:
                parts = {bundle.read("a"), bundle.read("inner/b"), bundle.read("c")}
                parts.add(bundle.version.encode())
        except OSError as error:
            missing += 1
            print(error, file=sys.stderr)
            continue
        reads += 1
        mixed += len(parts) != 1
        seen |= parts
    print(reads, mixed, missing, len(seen))
    """
)


def version(root: Path, name: str) -> Path:
    folder = root / "bundles" / name
    (folder / "inner").mkdir(parents=True)
    for path in ("a", "inner/b", "c"):
        (folder / path).write_text(name)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for name in ("v1", "v2"):
        version(root, name)
    fs.replace_link(root / "current", "bundles/v1")
    return root


def test_ten_thousand_flips_give_no_reader_a_mixture_or_a_missing_file(
    root: Path, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    command = [sys.executable, "-c", _READER, str(root), str(stop)]
    readers = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        for _ in range(READERS)
    ]
    try:
        for process in readers:
            assert process.stdout is not None
            assert process.stdout.readline() == "reading\n"
        for number in range(FLIPS):
            fs.replace_link(root / "current", f"bundles/v{1 + number % 2}", durable=False)
    finally:
        stop.touch()
        told = [process.communicate(timeout=30) for process in readers]
    for out, errors in told:
        reads, mixed, missing, seen = map(int, out.split())
        assert (mixed, missing) == (0, 0), errors
        assert reads > 100
        assert seen == 2, "this reader never saw a flip, so it proved nothing"


def test_a_lease_holds_off_whoever_would_remove_the_version(root: Path) -> None:
    with reader.open_bundle(root):
        fd = os.open(root / "bundles" / "v1", os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
    fd = os.open(root / "bundles" / "v1", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


def test_a_bundle_opened_before_a_flip_stays_that_version(root: Path) -> None:
    with reader.open_bundle(root) as bundle:
        fs.replace_link(root / "current", "bundles/v2")
        assert (bundle.version, bundle.read("a"), bundle.read("inner/b")) == ("v1", b"v1", b"v1")
        assert (bundle.path / "c").read_text() == "v1"


def test_a_link_inside_a_bundle_is_not_followed(root: Path) -> None:
    (root / "secret").write_text("outside")
    (root / "bundles" / "v1" / "a").unlink()
    (root / "bundles" / "v1" / "a").symlink_to("../../secret")
    with reader.open_bundle(root) as bundle, pytest.raises(OSError, match="v1/a"):
        bundle.read("a")


@pytest.mark.parametrize("name", ["../v2/a", "/etc/hostname", "inner/../a", "inner//b", ".", ""])
def test_a_name_that_leaves_the_bundle_is_refused(root: Path, name: str) -> None:
    with reader.open_bundle(root) as bundle, pytest.raises(OSError, match="not a path below"):
        bundle.read(name)


def test_a_folder_and_a_pipe_are_no_files(root: Path) -> None:
    os.mkfifo(root / "bundles" / "v1" / "pipe")
    with reader.open_bundle(root) as bundle:
        for name in ("inner", "pipe"):
            with pytest.raises(OSError, match=name):
                bundle.read(name)


def test_no_current_and_a_dangling_current_are_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="current"), reader.open_bundle(tmp_path):
        pass
    (tmp_path / "current").symlink_to("bundles/v9")
    with pytest.raises(FileNotFoundError, match="points at nothing"), reader.open_bundle(tmp_path):
        pass


def test_a_read_after_the_lease_is_over_fails(root: Path) -> None:
    with reader.open_bundle(root) as bundle:
        pass
    with pytest.raises(OSError, match="a"):
        bundle.read("a")


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with reader.open_bundle(root) as bundle:
        for name in ("a", "nothing", "inner"):
            try:
                bundle.read(name)
            except OSError:
                continue
    assert len(os.listdir("/proc/self/fd")) == before
