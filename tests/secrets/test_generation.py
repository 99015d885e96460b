"""The published directory: whole generations, through flips, kills, full volumes and meddling."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import fs
from agent.clock import SystemClock
from agent.secrets import tree
from agent.secrets.errors import PublishError
from agent.secrets.generation import Publisher
from agent.secrets.links import DATA
from agent.secrets.tree import INDEX, Item
from agent.units import Seconds, UnixTime
from tests.faults.clock import FakeClock
from tests.secrets.kills import killed_at_every_change, needs_strace


def item(path: str, data: bytes) -> Item:
    return Item(path, data, path, "1", "fake", UnixTime(1.0))


def items(**files: bytes) -> dict[str, Item]:
    """`a__b=b"x"` is a/b."""
    paths = {name.replace("__", "/"): data for name, data in files.items()}
    return {path: item(path, data) for path, data in paths.items()}


SET = items(database__main=b"db", api__x=b"x1", api__y=b"y1", plain=b"p")


def shown(directory: Path) -> dict[str, bytes]:
    """Every file that the stable names lead to."""
    found = {}
    for entry in directory.iterdir():
        if entry.name.startswith(("..", fs.TEMP_PREFIX)):
            continue
        for path in [entry, *entry.rglob("*")] if entry.is_dir() else [entry]:
            if path.is_file():
                found[str(path.relative_to(directory))] = path.read_bytes()
    return found


def content(wanted: dict[str, Item]) -> dict[str, bytes]:
    return {one.path: one.data for one in wanted.values()}


@pytest.fixture
def publisher(memory: Path) -> Publisher:
    return Publisher(memory, FakeClock())


def test_what_is_published_is_what_the_stable_names_show(
    publisher: Publisher, memory: Path
) -> None:
    result = publisher.publish(SET)
    assert (result.generation, result.changed, result.files) == (1, True, 4)
    assert shown(memory) == content(SET)
    assert fs.read_link(memory / DATA) == "..gen-000001"
    assert fs.read_link(memory / "api") == f"{DATA}/api"


def test_modes_are_closed_from_the_first_moment(memory: Path) -> None:
    before = os.umask(0)
    try:
        Publisher(memory, FakeClock(), file_mode=0o440, dir_mode=0o750).publish(SET)
    finally:
        os.umask(before)
    for path in [memory, *(memory / "..gen-000001").rglob("*"), memory / "..gen-000001"]:
        wanted = 0o750 if path.is_dir() else 0o440
        assert stat.S_IMODE(path.lstat().st_mode) == wanted, path


def test_the_index_tells_of_each_file_and_holds_neither_value_nor_a_plain_digest(
    publisher: Publisher, memory: Path
) -> None:
    publisher.publish(SET)
    text = (memory / DATA / INDEX).read_text()
    told = json.loads(text)
    assert told["generation"] == 1
    assert set(told["files"]) == set(content(SET))
    assert told["files"]["plain"]["version"] == "1"
    assert told["files"]["plain"]["digest"].startswith("hmac-sha256:")
    again = Publisher(memory, FakeClock())
    again.publish(items(plain=b"p"))
    other = json.loads((memory / DATA / INDEX).read_text())["files"]["plain"]["digest"]
    assert other != told["files"]["plain"]["digest"]  # nobody can look a short value up


def test_the_same_set_again_flips_nothing_and_touches_nothing(
    publisher: Publisher, memory: Path
) -> None:
    publisher.publish(SET)
    before = (memory / DATA / "plain").stat()
    result = publisher.publish(SET)
    assert (result.generation, result.changed, result.repaired) == (1, False, ())
    assert (memory / DATA / "plain").stat().st_ino == before.st_ino
    assert not Publisher(memory, FakeClock()).publish(SET).changed  # nor does a new process


def test_an_entry_that_is_gone_takes_its_link_with_it(publisher: Publisher, memory: Path) -> None:
    publisher.publish(SET)
    publisher.publish(items(plain=b"p", new__one=b"n"))
    assert sorted(os.listdir(memory)) == [
        *("..data", "..gen-000001", "..gen-000002", "..lock", "new", "plain"),
    ]


def test_a_file_that_is_to_be_kept_is_in_the_next_generation_with_its_index(
    publisher: Publisher, memory: Path
) -> None:
    publisher.publish(SET)
    publisher.publish(items(plain=b"p2"), keep=["api/x", "api/none"])
    assert shown(memory) == {"plain": b"p2", "api/x": b"x1"}
    assert json.loads((memory / DATA / INDEX).read_text())["files"]["api/x"]["version"] == "1"


# -- readers, kills, two writers ----------------------------------------------------------------


def read_pair(directory: Path) -> tuple[bytes, bytes]:
    """The reader's contract: `..data` once, everything else relative to it."""
    root = os.open(directory / DATA, os.O_RDONLY | os.O_DIRECTORY)
    try:
        pair = []
        for name in ("one", "two"):
            fd = os.open(name, os.O_RDONLY, dir_fd=root)
            with open(fd, "rb") as file:
                pair.append(file.read())
        return pair[0], pair[1]
    finally:
        os.close(root)


def test_readers_see_neither_a_mixture_nor_a_missing_file_over_2000_flips(memory: Path) -> None:
    publisher = Publisher(memory, SystemClock(), keep_for=Seconds(1.0))
    publisher.publish(items(one=b"0", two=b"0"))
    stop = threading.Event()

    def read() -> tuple[int, int, set[bytes]]:
        reads, mixed, seen = 0, 0, set()
        while not stop.is_set():
            one, two = read_pair(memory)  # a missing file would raise
            reads, mixed = reads + 1, mixed + (one != two)
            seen.add(one)
        return reads, mixed, seen

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for number in range(1, 2001):
                assert publisher.publish(items(one=b"%d" % number, two=b"%d" % number)).changed
        finally:
            stop.set()
        results = [reader.result(30) for reader in readers]
    assert sum(mixed for _, mixed, _ in results) == 0
    assert all(reads > 100 and len(seen) > 20 for reads, _, seen in results)


PUBLISH = """
import os, sys
from pathlib import Path
from agent.clock import SystemClock
from agent.secrets.generation import Publisher
from agent.secrets.links import DATA
from agent.secrets.tree import Item
from agent.units import UnixTime
directory, value = Path(sys.argv[1]), sys.argv[2].encode()
items = {p: Item(p, value, p, "1", "fake", UnixTime(1.0)) for p in ("one", "two", "deep/three")}
publisher = Publisher(directory, SystemClock(), keep_for=0.0)
os.getpriority(os.PRIO_PROCESS, 0)
publisher.publish(items)
os.getpriority(os.PRIO_PROCESS, 0)
"""


@needs_strace
def test_a_writer_killed_at_any_step_leaves_one_whole_generation_and_the_next_start_sweeps(
    memory: Path,
) -> None:
    old, new = (items(one=value, two=value, deep__three=value) for value in (b"old", b"new"))
    first = items(one=b"older", two=b"older", gone__x=b"1")

    def restore() -> None:
        shutil.rmtree(memory, ignore_errors=True)
        publisher = Publisher(memory, FakeClock())
        publisher.publish(first)
        publisher.publish(old)

    seen = set()
    for point in killed_at_every_change(PUBLISH, [str(memory), "new"], restore):
        pair = read_pair(memory)
        assert pair in ((b"old", b"old"), (b"new", b"new")), point
        wanted = old if pair[0] == b"old" else new
        root = memory / os.readlink(memory / DATA)
        assert {p: tree.read(root, p) for p in content(wanted)} == content(wanted), point
        assert set(tree.read_index(root)) == set(content(wanted)), point
        assert shown(memory) == content(wanted), point
        seen.add(pair[0])
        clock = FakeClock()
        publisher = Publisher(memory, clock)
        publisher.publish(new)
        clock.tick(61)
        publisher.tidy()
        live = os.readlink(memory / DATA)
        assert sorted(os.listdir(memory)) == sorted(
            ["..data", live, "..lock", "deep", "one", "two"]
        ), point
    assert seen == {b"old", b"new"}


def test_two_processes_that_publish_at_once_leave_one_whole_generation(memory: Path) -> None:
    command = [sys.executable, "-c", PUBLISH, str(memory)]
    for _ in range(3):
        running = [subprocess.Popen([*command, value]) for value in ("a", "b", "c")]
        assert [process.wait(60) for process in running] == [0, 0, 0]
        one, two = read_pair(memory)
        assert one == two
        assert set(shown(memory).values()) == {one}


# -- meddling -----------------------------------------------------------------------------------


def _chmod(directory: Path) -> None:
    (directory / DATA / "plain").chmod(0o666)


def _close(directory: Path) -> None:
    (directory / DATA / "plain").chmod(0)


def _open_folder(directory: Path) -> None:
    (directory / DATA / "api").chmod(0o777)


def _open_generation(directory: Path) -> None:
    (directory / os.readlink(directory / DATA)).chmod(0o755)


def _rewrite(directory: Path) -> None:
    (directory / DATA / "plain").chmod(0o600)
    (directory / DATA / "plain").write_bytes(b"q")
    (directory / DATA / "plain").chmod(0o400)


def _delete(directory: Path) -> None:
    (directory / DATA / "plain").unlink()


def _add(directory: Path) -> None:
    (directory / DATA / "api" / "stray").write_bytes(b"")


def _link_within(directory: Path) -> None:
    (directory / DATA / "api" / "x").unlink()
    (directory / DATA / "api" / "x").symlink_to("/etc/hostname")


def _break_index(directory: Path) -> None:
    (directory / DATA / INDEX).unlink()
    (directory / DATA / INDEX).write_bytes(b"{")
    (directory / DATA / INDEX).chmod(0o400)


def _pipe(directory: Path) -> None:
    (directory / DATA / "plain").unlink()
    os.mkfifo(directory / DATA / "plain", 0o400)


def _stray_link(directory: Path) -> None:
    (directory / "stray").symlink_to("..data/api")


def _bend_link(directory: Path) -> None:
    (directory / "api").unlink()
    (directory / "api").symlink_to("/etc")


def _lose_link(directory: Path) -> None:
    (directory / "api").unlink()


def _replace_by_folder(directory: Path) -> None:
    (directory / "api").unlink()
    (directory / "api").mkdir()
    (directory / "api" / "x").write_bytes(b"planted")


def _lose_data(directory: Path) -> None:
    (directory / DATA).unlink()


def _bend_data(directory: Path) -> None:
    (directory / DATA).unlink()
    (directory / DATA).symlink_to("/etc")


def _lose_generation(directory: Path) -> None:
    shutil.rmtree(directory / os.readlink(directory / DATA))


def _give_away(directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file away")
    os.chown(directory / DATA / "plain", 1234, 1234)


MEDDLING: list[tuple[Callable[[Path], None], str]] = [
    (_chmod, "mode"),
    (_close, "mode"),
    (_open_folder, "mode"),
    (_open_generation, "mode"),
    (_rewrite, "content"),
    (_delete, "content"),
    (_add, "content"),
    (_link_within, "stray"),
    (_break_index, "content"),
    (_pipe, "stray"),
    (_stray_link, "link"),
    (_bend_link, "link"),
    (_lose_link, "link"),
    (_replace_by_folder, "link"),
    (_lose_data, ""),
    (_bend_data, ""),
    (_lose_generation, ""),
    (_give_away, "owner"),
]


def _untouched_soon(publisher: Publisher) -> None:
    """The mark of a clean state is taken once the last change is older than a clock tick."""
    give_up = time.monotonic() + 5
    while not publisher.untouched():
        assert time.monotonic() < give_up, "never came to rest"
        publisher.publish(SET)


@pytest.mark.parametrize(("meddle", "what"), MEDDLING, ids=[m.__name__ for m, _ in MEDDLING])
def test_what_somebody_changed_is_noticed_by_a_glance_and_put_right_by_the_next_publication(
    publisher: Publisher, memory: Path, meddle: Callable[[Path], None], what: str
) -> None:
    publisher.publish(SET)
    _untouched_soon(publisher)
    meddle(memory)
    assert not publisher.untouched()
    result = publisher.publish(SET)
    if what:
        assert what in result.repaired
    assert shown(memory) == content(SET)
    live = memory / os.readlink(memory / DATA)
    assert tree.compare(live, SET, publisher._look()) == ()
    assert not publisher.publish(SET).changed
    _untouched_soon(publisher)


def test_a_lost_data_link_does_not_pull_generations_from_under_their_readers(
    publisher: Publisher, memory: Path
) -> None:
    publisher.publish(SET)
    root = os.open(memory / DATA, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (memory / DATA).unlink()
        publisher.publish(SET)
        os.close(os.open("plain", os.O_RDONLY, dir_fd=root))
    finally:
        os.close(root)


def test_a_directory_with_somebodys_files_is_refused_and_left_alone(
    publisher: Publisher, memory: Path
) -> None:
    memory.mkdir()
    (memory / "api").mkdir()
    (memory / "api" / "thesis.txt").write_text("years of work")
    with pytest.raises(PublishError, match="api, which is not ours"):
        publisher.publish(SET)
    assert (memory / "api" / "thesis.txt").read_text() == "years of work"


def test_a_file_that_somebody_puts_beside_the_entries_later_is_left_alone(
    publisher: Publisher, memory: Path
) -> None:
    publisher.publish(SET)
    (memory / "notes").write_text("x")
    publisher.publish(items(plain=b"2"))
    assert (memory / "notes").read_text() == "x"


# -- where and for whom -------------------------------------------------------------------------


def test_a_directory_on_disk_is_refused_unless_allowed_by_name(tmp_path: Path) -> None:
    if fs.filesystem_type(tmp_path) in ("tmpfs", "ramfs"):
        pytest.skip("the temporary directory is in memory")
    place = tmp_path / "secrets"
    with pytest.raises(PublishError, match="not in memory"):
        Publisher(place, FakeClock()).publish(SET)
    assert not place.exists()
    Publisher(place, FakeClock(), allow_disk=True).publish(SET)
    assert shown(place) == content(SET)


def test_a_link_in_place_of_the_directory_is_refused(memory: Path) -> None:
    (memory.parent / "elsewhere").mkdir()
    memory.symlink_to(memory.parent / "elsewhere")
    with pytest.raises(PublishError, match="is no directory"):
        Publisher(memory, FakeClock()).publish(SET)
    assert os.listdir(memory.parent / "elsewhere") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to choose a group")
@pytest.mark.parametrize("setgid", [0, stat.S_ISGID])
def test_files_belong_to_the_directorys_group_so_that_the_trader_can_read(
    memory: Path, setgid: int
) -> None:
    memory.mkdir()
    os.chown(memory, -1, 4321)
    memory.chmod(0o750 | setgid)
    publisher = Publisher(memory, FakeClock(), file_mode=0o440, dir_mode=0o750)
    publisher.publish(SET)
    assert stat.S_IMODE(memory.stat().st_mode) == 0o750 | setgid
    for path in (memory / DATA).resolve().rglob("*"):
        assert path.stat().st_gid == 4321, path
    assert not publisher.publish(SET).changed


# -- old generations and room -------------------------------------------------------------------


def generations(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.startswith("..gen-"))


def test_an_old_generation_stays_for_its_time_however_many_follow_and_then_goes(
    memory: Path,
) -> None:
    clock = FakeClock()
    publisher = Publisher(memory, clock, keep_for=Seconds(60.0))
    for number in range(6):
        publisher.publish(items(plain=b"%d" % number))
        clock.tick(10)
    assert len(generations(memory)) == 6
    clock.tick(9.9)  # the first has been old for 59.9 s
    publisher.tidy()
    assert generations(memory)[0] == "..gen-000001"
    clock.tick(0.2)
    publisher.tidy()
    assert generations(memory)[0] == "..gen-000002"
    clock.tick(60)
    publisher.tidy()
    assert generations(memory) == ["..gen-000006"]


def test_tidying_never_touches_what_another_process_is_writing(memory: Path) -> None:
    publisher = Publisher(memory, FakeClock(), keep_for=Seconds(0.0))
    publisher.publish(SET)
    (memory / "..gen-000002").mkdir()
    publisher.tidy()
    assert generations(memory) == ["..gen-000001", "..gen-000002"]


@pytest.fixture
def small(memory: Path) -> Iterator[Path]:
    """A tmpfs of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    memory.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(memory)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    yield memory
    subprocess.run(["umount", str(memory)], check=True)


def test_a_set_that_does_not_fit_is_refused_and_the_old_one_stays_whole(small: Path) -> None:
    publisher = Publisher(small, FakeClock())
    publisher.publish(SET)
    with pytest.raises(PublishError, match="bytes free"):
        publisher.publish(items(plain=b"x" * 250_000))
    assert shown(small) == content(SET)
    assert generations(small) == ["..gen-000001"]
    assert not publisher.publish(SET).changed


def test_when_the_volume_is_full_old_generations_go_oldest_first(small: Path) -> None:
    publisher = Publisher(small, FakeClock())
    for number in range(20):
        publisher.publish(items(plain=b"%02d" % number * 8000))
    left = generations(small)
    assert left[-1] == "..gen-000020"
    assert 3 <= len(left) < 20
    assert left == sorted(left)[-len(left) :]
    numbers = [int(name[6:]) for name in left]
    assert numbers == list(range(numbers[0], 21))


def test_a_volume_that_fills_up_in_the_middle_of_writing_leaves_the_old_set(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher(small, FakeClock())
    publisher.publish(SET)
    monkeypatch.setattr(fs, "free_bytes", lambda _path: 10**9)  # another writer took the room
    with pytest.raises(PublishError, match="No space left"):
        publisher.publish(items(one=b"1" * 100_000, two=b"2" * 300_000))
    assert shown(small) == content(SET)
    assert generations(small) == ["..gen-000001"]


def test_everything_published_can_be_removed_again(publisher: Publisher, memory: Path) -> None:
    publisher.publish(SET)
    publisher.wipe()
    assert os.listdir(memory) == ["..lock"]
