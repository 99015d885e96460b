"""From a store to a version that is whole, ours and read-only, or to nothing."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from agent import fs
from agent.bundles.copying import AbandonedError
from agent.bundles.errors import GateError, RejectedError
from agent.bundles.layout import Layout
from agent.bundles.model import MANIFEST
from agent.bundles.staging import Draft, copy, stage, sweep
from agent.bundles.stores.folder import FolderStore
from agent.bundles.stores.single import SingleFolder
from agent.bundles.verified import Verified, verify
from agent.configpod import Limits
from agent.units import Bytes, Digest, Version
from tests.bundles.made import LIMITS, V1, V2, bundle, published


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "models")
    layout.prepare()
    return layout


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def put(layout: Layout, store: FolderStore, version: Version, limits: Limits = LIMITS) -> Draft:
    return stage(layout, store, version, limits=limits, manifest_required=True)


def leftovers(layout: Layout) -> list[str]:
    return [name for name in os.listdir(layout.staging) if name != "lock"]


def test_a_staged_version_is_complete_read_only_and_leaves_no_leftover(
    tmp_path: Path, layout: Layout, store: FolderStore
) -> None:
    manifest = published(tmp_path, V1)
    draft = put(layout, store, V1)
    folder = layout.folder(V1)
    assert draft.manifest.digest == manifest.digest
    assert (folder / MANIFEST).read_bytes() == manifest.raw
    assert layout.flaw(V1) is None
    verify(folder, manifest, Verified())
    assert folder.stat().st_mode & 0o777 == 0o555
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}
    assert leftovers(layout) == []


def test_files_that_an_earlier_version_holds_are_linked_and_not_copied(
    tmp_path: Path, layout: Layout, store: FolderStore
) -> None:
    published(tmp_path, V1)
    put(layout, store, V1)
    published(tmp_path, V2, note="only this changed")
    draft = put(layout, store, V2)
    same = layout.folder(V1) / "policy.pt"
    assert os.path.samefile(same, layout.folder(V2) / "policy.pt")
    assert not os.path.samefile(layout.folder(V1) / "README.md", layout.folder(V2) / "README.md")
    assert draft.copied < 2000 < same.stat().st_size


def test_a_damaged_file_here_is_never_linked_into_a_new_version(
    tmp_path: Path, layout: Layout, store: FolderStore
) -> None:
    published(tmp_path, V1)
    put(layout, store, V1)
    damage(layout.folder(V1) / "policy.pt")
    second = published(tmp_path, V2, note="x")
    put(layout, store, V2)
    verify(layout.folder(V2), second, Verified())


def damage(path: Path) -> None:
    """Flip one byte, size unchanged."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def test_one_flipped_byte_in_the_store_is_refused_and_named(
    tmp_path: Path, layout: Layout, store: FolderStore
) -> None:
    published(tmp_path, V1)
    damage(tmp_path / "store" / "bundles" / V1 / "policy.pt")
    with pytest.raises(RejectedError, match="policy.pt is not what its manifest says"):
        put(layout, store, V1)
    assert layout.versions() == []
    assert leftovers(layout) == []


def test_a_version_that_is_here_already_is_reused(
    tmp_path: Path, layout: Layout, store: FolderStore
) -> None:
    published(tmp_path, V1)
    put(layout, store, V1)
    before = (layout.folder(V1) / "policy.pt").stat().st_ino
    assert put(layout, store, V1).fresh is False
    assert (layout.folder(V1) / "policy.pt").stat().st_ino == before


def test_other_content_under_a_name_that_is_here_is_refused(
    tmp_path: Path, layout: Layout, store: FolderStore
) -> None:
    published(tmp_path, V1)
    put(layout, store, V1)
    other = SingleFolder(bundle(tmp_path / "other", V1, note="changed"), max_files=100)
    with pytest.raises(RejectedError, match="already here with other content"):
        stage(layout, other, V1, limits=LIMITS, manifest_required=False)
    assert leftovers(layout) == []


def test_a_damaged_version_here_is_replaced_by_the_same_content(
    tmp_path: Path, layout: Layout, store: FolderStore
) -> None:
    manifest = published(tmp_path, V1)
    put(layout, store, V1)
    damage(layout.folder(V1) / "policy.pt")
    put(layout, store, V1)
    verify(layout.folder(V1), manifest, Verified())
    assert leftovers(layout) == []


def test_without_a_manifest_the_agent_writes_the_one_it_saw(tmp_path: Path, layout: Layout) -> None:
    source = SingleFolder(bundle(tmp_path / "plain", V1), max_files=100)
    draft = stage(layout, source, V1, limits=LIMITS, manifest_required=False)
    assert layout.require(V1).digest == draft.manifest.digest
    verify(layout.folder(V1), draft.manifest, Verified())
    assert stage(layout, source, V1, limits=LIMITS, manifest_required=False).fresh is False


def test_without_a_manifest_nothing_is_staged_where_one_is_required(
    tmp_path: Path, layout: Layout
) -> None:
    source = SingleFolder(bundle(tmp_path / "plain", V1), max_files=100)
    with pytest.raises(RejectedError, match="has no manifest"):
        stage(layout, source, V1, limits=LIMITS, manifest_required=True)


def test_too_little_room_is_told_before_the_first_byte(
    tmp_path: Path, layout: Layout, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path, V1)

    def unopened(_self: FolderStore, _version: Version, path: str) -> BinaryIO:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(FolderStore, "open", unopened)
    with pytest.raises(GateError, match="not enough room"):
        put(layout, store, V1, Limits(headroom=Bytes(2**60)))


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(max_files=4, headroom=Bytes(0)), "more than 4"),
        (Limits(max_size=Bytes(9), headroom=Bytes(0)), "more than 9"),
    ],
)
def test_what_is_over_a_limit_is_refused(
    tmp_path: Path, layout: Layout, store: FolderStore, limits: Limits, why: str
) -> None:
    published(tmp_path, V1)
    with pytest.raises(RejectedError, match=why):
        put(layout, store, V1, limits)


def test_a_manifest_that_is_not_the_channel_s_is_refused(
    tmp_path: Path, layout: Layout, store: FolderStore
) -> None:
    published(tmp_path, V1)
    wrong = Digest("sha256:" + "0" * 64)
    with pytest.raises(RejectedError, match="not the one that the channel names"):
        stage(layout, store, V1, limits=LIMITS, manifest_required=True, digest=wrong)


@pytest.mark.parametrize("change", ["extra", "missing"])
def test_a_store_that_has_other_files_than_its_manifest_is_refused(
    tmp_path: Path, layout: Layout, store: FolderStore, change: str
) -> None:
    published(tmp_path, V1)
    folder = tmp_path / "store" / "bundles" / V1
    folder.chmod(0o755)
    if change == "extra":
        (folder / "extra.bin").write_bytes(b"x")
    else:
        (folder / "README.md").unlink()
    with pytest.raises(RejectedError, match=r"extra\.bin|README\.md"):
        put(layout, store, V1)


def test_content_that_cannot_be_judged_good_never_gets_below_bundles(
    tmp_path: Path, layout: Layout
) -> None:
    source = bundle(tmp_path / "bad", V1)
    (source / "policy.pt").write_bytes(b"not a model")
    with pytest.raises(RejectedError, match=r"policy\.pt"):
        stage(layout, SingleFolder(source, max_files=9), V1, limits=LIMITS, manifest_required=False)
    assert layout.versions() == []
    assert leftovers(layout) == []


class Growing(SingleFolder):
    """A store whose file grows between its listing and its reading."""

    def open(self, version: Version, path: str) -> BinaryIO:
        with super().open(version, path) as file:
            return io.BytesIO(file.read() + b"more")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, layout: Layout) -> None:
    growing = Growing(bundle(tmp_path / "grows", V1), max_files=9)
    with pytest.raises(RejectedError, match="changed while it was read"):
        stage(layout, growing, V1, limits=LIMITS, manifest_required=False)


def test_an_abandoned_copy_leaves_nothing(
    tmp_path: Path, layout: Layout, store: FolderStore
) -> None:
    published(tmp_path, V1)
    with pytest.raises(AbandonedError):
        copy(layout, store, V1, limits=LIMITS, manifest_required=True, stop=lambda: True)
    assert leftovers(layout) == []


def test_leftovers_of_a_kill_are_swept_read_only_ones_too(layout: Layout) -> None:
    left = layout.staging / "v1.abc"
    (left / "inner").mkdir(parents=True)
    (left / "inner" / "file").touch()
    (left / "inner").chmod(0o555)
    left.chmod(0o555)
    (layout.root / fs.temp_name()).symlink_to("bundles/v1")
    assert len(sweep(layout)) == 2
    assert leftovers(layout) == []
    assert sorted(os.listdir(layout.root)) == [".staging", "bundles"]
