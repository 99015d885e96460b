"""The links: right after every flip, and after a kill anywhere in one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.bundles.errors import BundleError, RejectedError, RolloutError
from agent.bundles.flip import back, choose, forward, reconcile, settle_left
from agent.bundles.layout import Layout
from agent.bundles.staging import stage
from agent.bundles.stores.folder import FolderStore
from agent.bundles.verified import Verified, verify
from agent.units import Bytes, Monotonic, Seconds, Version
from tests.bundles.made import LIMITS, V1, V2, V3, published, staged
from tests.faults.killpoints import kill_everywhere


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "models")
    staged(tmp_path, layout, V1, V2)
    return layout


def test_forward_keeps_the_version_to_go_back_to(layout: Layout) -> None:
    forward(layout, V1)
    assert (layout.live(), layout.version_at(layout.previous)) == (V1, None)
    forward(layout, V2)
    assert (layout.live(), layout.version_at(layout.previous)) == (V2, V1)
    assert os.readlink(layout.current) == "bundles/v2"


def test_back_never_leaves_the_bad_version_as_the_previous_one(layout: Layout) -> None:
    forward(layout, V1)
    forward(layout, V2)
    back(layout, V1, None)
    assert (layout.live(), layout.version_at(layout.previous)) == (V1, None)


def test_an_incomplete_version_is_never_flipped_to(layout: Layout) -> None:
    forward(layout, V1)
    layout.folder(V2).chmod(0o755)
    (layout.folder(V2) / "policy.pt").unlink()
    with pytest.raises(RejectedError, match=r"policy\.pt"):
        forward(layout, V2)
    with pytest.raises(RejectedError, match=r"policy\.pt"):
        back(layout, V2, None)
    assert layout.live() == V1


def test_the_root_may_be_mounted_elsewhere(layout: Layout, tmp_path: Path) -> None:
    forward(layout, V1)
    layout.root.rename(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "current" / "metadata.json").is_file()


def test_flips_are_never_closer_than_the_settle_time() -> None:
    settle, last = Seconds(0.5), Monotonic(100.0)
    assert settle_left(last, Monotonic(100.0), settle) == 0.5
    assert settle_left(last, Monotonic(100.4), settle) == pytest.approx(0.1)
    assert settle_left(last, Monotonic(100.5), settle) == 0.0


def test_a_sound_current_is_never_moved_by_a_reconciliation(layout: Layout) -> None:
    forward(layout, V1)
    assert reconcile(layout, [V2], adopt=False) == []
    assert layout.live() == V1


@pytest.mark.parametrize("harm", ["dangling", "incomplete", "gone"])
def test_a_current_that_is_not_whole_is_put_back_to_the_newest_good_one(
    layout: Layout, harm: str
) -> None:
    forward(layout, V1)
    forward(layout, V2)
    if harm == "dangling":
        layout.current.unlink()
        layout.current.symlink_to("bundles/v9")
    elif harm == "incomplete":
        layout.folder(V2).chmod(0o755)
        (layout.folder(V2) / "policy.pt").unlink()
    else:
        layout.current.unlink()
    assert reconcile(layout, [V2, V1], adopt=False)
    assert layout.live() == (V2 if harm != "incomplete" else V1)
    assert layout.flaw(layout.live() or V3) is None


def test_a_previous_that_names_the_live_version_is_put_right(layout: Layout) -> None:
    forward(layout, V1)
    layout.previous.symlink_to("bundles/v1")
    reconcile(layout, [V1, V2], adopt=False)
    assert layout.version_at(layout.previous) == V2


def test_nothing_good_leaves_current_as_it_is(layout: Layout) -> None:
    layout.current.symlink_to("bundles/v9")
    reconcile(layout, [], adopt=False)
    assert layout.live() == "v9"


def test_a_current_that_is_a_folder_is_told_and_left_alone(layout: Layout) -> None:
    layout.current.mkdir()
    with pytest.raises(RolloutError, match="is a folder"):
        reconcile(layout, [V1], adopt=False)
    with pytest.raises(BundleError):
        forward(layout, V1)
    assert layout.current.is_dir()


def test_a_root_of_the_earlier_scripts_is_taken_over(layout: Layout) -> None:
    (layout.folder(V1)).chmod(0o755)
    (layout.folder(V1) / "manifest.json").unlink()
    layout.current.symlink_to(layout.folder(V1))  # absolute, as they made it
    assert layout.live() == V1
    assert reconcile(layout, [], adopt=True) == ["wrote the manifest that v1 lacked"]
    verify(layout.folder(V1), layout.require(V1), Verified())


def test_the_choice_passes_over_what_is_avoided_or_broken(layout: Layout) -> None:
    assert choose(layout, [V3, V2, V1], besides=[V2]) == V1
    assert choose(layout, [V3], besides=[]) is None


# -- kill -9 ------------------------------------------------------------------------------------


def sound(layout: Layout) -> Version:
    """The live version, after looking at every byte of it."""
    live = layout.live()
    assert live is not None
    verify(layout.folder(live), layout.require(live), Verified())
    return live


class Rooms:
    """Fresh roots with v1 live, and v2 in the store, one for each kill."""

    def __init__(self, tmp: Path) -> None:
        self._tmp = tmp
        self._number = 0
        self.store = FolderStore(tmp / "store")
        self._template = Layout(tmp / "template")
        staged(tmp, self._template, V1)
        published(tmp, V2, note="v2's own")
        forward(self._template, V1)

    def fresh(self) -> Layout:
        self._number += 1
        root = self._tmp / f"root-{self._number}"
        shutil.copytree(self._template.root, root, symlinks=True)
        return Layout(root)


def deploy(layout: Layout, store: FolderStore) -> None:
    with layout.lock("a test"):
        stage(layout, store, V2, limits=LIMITS, manifest_required=True)
        forward(layout, V2)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_call_of_a_deploy_leaves_a_whole_version_live(
    tmp_path: Path, after: bool
) -> None:
    rooms = Rooms(tmp_path)
    seen: set[Version] = set()
    kills = 0
    for layout in kill_everywhere(
        rooms.fresh, lambda layout: deploy(layout, rooms.store), after=after
    ):
        kills += 1
        seen.add(sound(layout))
        with layout.lock("a test"):  # the dead one's lock is free again
            reconcile(layout, [V1], adopt=False)
        sound(layout)
        assert os.listdir(layout.staging) == ["lock"]
        assert set(os.listdir(layout.root)) <= {"bundles", ".staging", "current", "previous"}
        assert layout.version_at(layout.previous) in (None, V1)
        assert layout.version_at(layout.previous) != layout.live()
        deploy(layout, rooms.store)  # nothing is wedged
        assert sound(layout) == V2
        assert layout.version_at(layout.previous) == V1
    assert kills > 50
    assert seen == {V1, V2}, "the kills did not reach both sides of the flip"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_call_of_a_way_back_leaves_a_whole_version_live(
    tmp_path: Path, after: bool
) -> None:
    rooms = Rooms(tmp_path)

    def prepared() -> Layout:
        layout = rooms.fresh()
        deploy(layout, rooms.store)
        return layout

    seen: set[Version] = set()
    for layout in kill_everywhere(prepared, lambda layout: back(layout, V1, None), after=after):
        seen.add(sound(layout))
        reconcile(layout, [V1], adopt=False)
        assert layout.version_at(layout.previous) != layout.live()
        back(layout, V1, None)
        assert sound(layout) == V1
    assert seen == {V1, V2}


_UNDER_STRACE = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from agent.bundles.layout import Layout
    from agent.bundles.stores.folder import FolderStore
    from tests.bundles.test_flip import deploy
    deploy(Layout(Path(sys.argv[1])), FolderStore(Path(sys.argv[2])))
    """
)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    "point",
    [
        "mkdir:1",
        "fsync:1",
        "fsync:5",
        "fchmod:3",
        *("rename:1", "rename:2", "rename:3"),
        *("symlink:1", "symlink:2"),
    ],
)
def test_a_kill_inside_the_kernel_s_own_calls_leaves_a_whole_version_live(
    tmp_path: Path, point: str
) -> None:
    call, number = point.split(":")
    rooms = Rooms(tmp_path)
    layout = rooms.fresh()
    names = {"rename": "/^rename", "symlink": "/^symlink", "mkdir": "/^mkdir"}.get(call, call)
    inject = f"inject={names}:signal=KILL:when={number}"
    python = [sys.executable, "-B", "-c", _UNDER_STRACE, str(layout.root), str(tmp_path / "store")]
    ended = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "-e", inject, *python],
        capture_output=True,
        timeout=60,
        check=False,
    )
    if b"ptrace" in ended.stderr:
        pytest.skip("ptrace is not allowed here")
    assert ended.returncode in (-9, 137), ended.stderr.decode()
    sound(layout)
    deploy(layout, rooms.store)
    assert sound(layout) == V2


# -- a full disk --------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 128 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k,nr_inodes=60", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_at_any_point_leaves_a_whole_version_live(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What asks for room first would refuse at once: here the disk fills behind its back.
    monkeypatch.setattr("agent.fs.free_bytes", lambda _path: Bytes(2**40))
    published(tmp_path, V1)
    published(tmp_path, V2, note="y" * 3000)
    store = FolderStore(tmp_path / "store")
    blocked = 0
    for left in range(0, 60 * 1024, 4096):
        layout = Layout(small / "models")
        layout.prepare()
        with layout.lock("a test"):
            stage(layout, store, V1, limits=LIMITS, manifest_required=True)
            forward(layout, V1)
        free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
        (small / "filler").write_bytes(bytes(max(0, free - left)))
        try:
            with layout.lock("a test"):
                stage(layout, store, V2, limits=LIMITS, manifest_required=True)
                forward(layout, V2)
        except BundleError as error:
            blocked += 1
            assert sound(layout) == V1, error
        else:
            assert sound(layout) == V2
        reconcile(layout, [V1], adopt=False)
        assert os.listdir(layout.staging) == ["lock"]
        subprocess.run(["rm", "-rf", str(layout.root), str(small / "filler")], check=True)
    assert 0 < blocked < 15, "the disk never filled, or never sufficed"
