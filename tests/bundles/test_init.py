"""The init container's promise: a whole, verified bundle is live, or an error says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.audit import AuditLog
from agent.bundles.errors import RejectedError, StoreError
from agent.bundles.init import init_bundle
from agent.bundles.layout import Layout
from agent.bundles.model import Desired
from agent.bundles.verdicts import Verdicts
from agent.bundles.verified import Verified, verify
from agent.clock import SystemClock
from agent.configpod import Bundles
from agent.errors import Exit
from agent.units import UnixTime, Version
from tests.bundles.made import V1, V2, ask_for, published
from tests.bundles.test_staging import damage

Init = Callable[[], Version]


@pytest.fixture
def init(tmp_path: Path) -> Iterator[Init]:
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "store").mkdir()
    audit = AuditLog(state)
    values = {
        "root": tmp_path / "models",
        "store": {"path": tmp_path / "store"},
        "limits": {"headroom": 0},
    }
    config = Bundles(**values)

    def run() -> Version:
        return init_bundle(
            config,
            channel="test",
            manifest_required=True,
            state_dir=state,
            audit=audit,
            clock=SystemClock(),
        )

    yield run
    audit.close()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "models")


def test_the_channel_s_version_is_live_afterwards_and_a_second_run_changes_nothing(
    tmp_path: Path, init: Init, layout: Layout
) -> None:
    published(tmp_path, "v1")
    assert init() == "v1"
    seen = layout.current.lstat()
    verify(layout.folder(V1), layout.require(V1), Verified())
    assert init() == "v1"
    assert layout.current.lstat().st_mtime_ns == seen.st_mtime_ns


def test_a_new_wish_is_brought_and_the_old_version_kept_to_go_back_to(
    tmp_path: Path, init: Init, layout: Layout
) -> None:
    published(tmp_path, "v1")
    init()
    published(tmp_path, "v2", note="2")
    assert init() == "v2"
    assert layout.version_at(layout.previous) == V1


def test_no_bundle_and_no_store_is_a_store_error(tmp_path: Path, init: Init) -> None:
    (tmp_path / "store").rmdir()
    with pytest.raises(StoreError) as caught:
        init()
    assert caught.value.exit_code == Exit.STORE


def test_no_bundle_and_no_channel_is_a_store_error(init: Init) -> None:
    with pytest.raises(StoreError, match="no channel test"):
        init()


def test_no_bundle_and_a_bad_one_is_a_rejection(tmp_path: Path, init: Init, layout: Layout) -> None:
    published(tmp_path, "v1")
    damage(tmp_path / "store" / "bundles" / "v1" / "policy.pt")
    with pytest.raises(RejectedError) as caught:
        init()
    assert caught.value.exit_code == Exit.BUNDLE
    assert layout.live() is None


@pytest.mark.parametrize("trouble", ["store gone", "bad wish"])
def test_what_is_live_and_sound_stays_when_the_wish_cannot_be_had(
    tmp_path: Path, init: Init, trouble: str
) -> None:
    published(tmp_path, "v1")
    init()
    if trouble == "store gone":
        (tmp_path / "store").rename(tmp_path / "gone")
    else:
        published(tmp_path, "v2", note="2")
        damage(tmp_path / "store" / "bundles" / "v2" / "README.md")
    assert init() == "v1"


def test_a_live_version_whose_bytes_have_changed_is_brought_anew(
    tmp_path: Path, init: Init, layout: Layout
) -> None:
    manifest = published(tmp_path, "v1")
    init()
    damage(layout.folder(V1) / "policy.pt")
    assert init() == "v1"
    verify(layout.folder(V1), manifest, Verified())


def test_a_damaged_live_version_without_a_store_gives_way_to_the_one_before(
    tmp_path: Path, init: Init, layout: Layout
) -> None:
    published(tmp_path, "v1")
    init()
    published(tmp_path, "v2", note="2")
    init()
    layout.folder(V2).chmod(0o755)
    damage(layout.folder(V2) / "metadata.json")
    (tmp_path / "store").rename(tmp_path / "gone")
    assert init() == "v1"
    assert layout.live() == "v1"


def test_a_banned_version_does_not_come_back_with_a_new_pod(
    tmp_path: Path, init: Init, layout: Layout
) -> None:
    published(tmp_path, "v1")
    init()
    second = published(tmp_path, "v2", note="2")
    verdicts = Verdicts(tmp_path / "state")
    verdicts.ban(V2, second.digest, "rolled back", UnixTime(0.0))
    assert init() == "v1"
    verdicts.lift(second.digest)
    assert init() == "v2"
    verdicts.ban(V2, second.digest, "rolled back, then killed", UnixTime(0.0))
    assert init() == "v1", "the way back was written down and must be gone"
    assert layout.version_at(layout.previous) is None


def test_a_person_s_choice_outlives_the_pod(tmp_path: Path, init: Init) -> None:
    first = published(tmp_path, "v1")
    init()
    second = published(tmp_path, "v2", note="2")
    Verdicts(tmp_path / "state").override(Desired(second.version, second.digest))
    assert init() == "v1"
    ask_for(tmp_path, first)
    assert init() == "v1"
    published(tmp_path, "v3", note="3")
    assert init() == "v3"


def test_leftovers_of_a_killed_run_are_gone_afterwards(
    tmp_path: Path, init: Init, layout: Layout
) -> None:
    published(tmp_path, "v1")
    layout.prepare()
    (layout.staging / "v1.dead").mkdir()
    (layout.root / ".jules-tmp-dead").symlink_to("bundles/v1")
    init()
    assert os.listdir(layout.staging) == ["lock"]
    assert not (layout.root / ".jules-tmp-dead").is_symlink()


def test_the_init_path_imports_no_watcher_no_http_client_and_no_database() -> None:
    heavy = ["urllib3", "watchdog", "prometheus_client", "sqlite3", "http"]
    code = (
        "import sys, json; import agent.bundles.init;"
        f"print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(out.stdout) == []
