"""A folder is proved to be a sound bundle before anything points at it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bundles.errors import RejectedError
from agent.bundles.manifest import build_manifest
from agent.bundles.model import REQUIRED_FILES
from agent.bundles.validation import Report, _check_config, validate_bundle
from agent.configpod import Limits
from agent.units import Bytes, Version
from tests.bundles.hostile import HOSTILE

DEMO = Path(__file__).parents[2] / "agent" / "demo" / "bundles"
V = Version("v2025-07-06")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO / V, tmp_path / "bundle"))


def check(folder: Path, limits: Limits | None = None, *, listed: bool = False) -> Report:
    manifest = build_manifest(folder, V) if listed else None
    return validate_bundle(folder, manifest, limits=limits or Limits(), version=V)


@pytest.mark.parametrize("version", ["v2025-07-06", "v2025-07-08"])
def test_the_demo_bundles_pass_and_the_report_tells_what_they_hold(version: str) -> None:
    named = Version(version)
    manifest = build_manifest(DEMO / version, named)
    report = validate_bundle(DEMO / version, manifest, limits=Limits(), version=named)
    assert report.files == 6
    assert report.bytes == sum(path.stat().st_size for path in (DEMO / version).iterdir())
    assert report.kinds == {
        "policy.pt": "state_dict",
        "value_function.pt": "torchscript",
        "feature_scaler.pkl": "pickle",
    }


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_required_file_must_be_there(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(RejectedError, match=f"{name} is missing"):
        check(bundle)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="missing"):
        check(tmp_path / "no")


def _link(bundle: Path) -> None:
    (bundle / "x.md").symlink_to("README.md")


def _folder_link(bundle: Path) -> None:
    (bundle / "x").symlink_to("/etc")


def _pipe(bundle: Path) -> None:
    os.mkfifo(bundle / "x")


def _required_as_link(bundle: Path) -> None:
    (bundle / "policy.pt").rename(bundle.parent / "elsewhere.pt")
    (bundle / "policy.pt").symlink_to(bundle.parent / "elsewhere.pt")


def _socket(bundle: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(bundle)
        try:
            sock.bind("x")
        finally:
            os.chdir(here)


@pytest.mark.parametrize("make", [_link, _folder_link, _pipe, _required_as_link, _socket])
def test_what_is_no_plain_file_is_refused(bundle: Path, make: Callable[[Path], None]) -> None:
    make(bundle)
    with pytest.raises(RejectedError, match=r"(x|policy\.pt).* is a link"):
        check(bundle)


def test_more_files_or_bytes_than_the_limits_are_refused(bundle: Path) -> None:
    with pytest.raises(RejectedError, match="more than 5 files"):
        check(bundle, Limits(max_files=5))
    with pytest.raises(RejectedError, match="max|more than 1000"):
        check(bundle, Limits(max_size=Bytes(1000)))


def test_a_file_that_the_manifest_does_not_list_is_refused_and_so_is_one_that_is_gone(
    bundle: Path,
) -> None:
    manifest = build_manifest(bundle, V)
    (bundle / "extra.txt").write_text("x")
    with pytest.raises(RejectedError, match="extra.txt is not in the manifest"):
        validate_bundle(bundle, manifest, limits=Limits(), version=V)
    (bundle / "extra.txt").unlink()
    (bundle / "README.md").unlink()
    with pytest.raises(RejectedError, match="README.md is in the manifest, but missing"):
        validate_bundle(bundle, manifest, limits=Limits(), version=V)
    (bundle / "README.md").write_text("shorter")
    with pytest.raises(RejectedError, match="README.md has 7 bytes"):
        validate_bundle(bundle, manifest, limits=Limits(), version=V)


def test_a_manifest_of_another_version_is_refused(bundle: Path) -> None:
    manifest = build_manifest(bundle, Version("v9"))
    with pytest.raises(RejectedError, match="v9"):
        validate_bundle(bundle, manifest, limits=Limits(), version=V)


@pytest.mark.parametrize("where", ["risk.pkl", "deep/er/risk.pkl", "notes.txt", "x.bin", "X.PKL"])
def test_a_hostile_pickle_is_found_wherever_it_lies(bundle: Path, where: str) -> None:
    path = bundle / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(HOSTILE["STACK_GLOBAL os.system"])
    with pytest.raises(RejectedError, match=rf"{where}.*os\.system"):
        check(bundle)


def test_a_hostile_archive_is_found_under_another_suffix(bundle: Path) -> None:
    (bundle / "policy.pt").rename(bundle / "risk.dat")
    shutil.copy(DEMO / "v2025-07-08" / "policy.pt", bundle / "policy.pt")
    assert check(bundle).kinds["risk.dat"] == "state_dict"
    data = bytearray((bundle / "risk.dat").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "risk.dat").write_bytes(data)
    with pytest.raises(RejectedError, match=r"risk\.dat"):
        check(bundle)


def test_a_second_object_behind_a_pickle_is_refused(bundle: Path) -> None:
    (bundle / "risk.pkl").write_bytes(pickle.dumps(1) + HOSTILE["STACK_GLOBAL os.system"])
    with pytest.raises(RejectedError, match="bytes follow the pickle"):
        check(bundle)


@pytest.mark.parametrize("name", ["joblib.pkl", "joblib_packed.pkl"])
def test_what_joblib_writes_is_refused_with_the_way_out(bundle: Path, name: str) -> None:
    shutil.copy(Path(__file__).parent / "samples" / "refused" / name, bundle / "risk.pkl")
    with pytest.raises(RejectedError) as told:
        check(bundle)
    assert "pickle.dump" in told.value.remedy


@pytest.mark.parametrize(
    "change",
    [{"version": "v1"}, {"version": 7}, {"version": None}, {"created_at": "yesterday"},
     {"created_at": True}, {"created_at": -1}, {"created_at": None}, {"model_type": ""},
     {"model_type": 3}, {"training_data_hash": ""}, {"training_data_hash": []}],
)  # fmt: skip
def test_metadata_must_say_what_a_deployment_asks_for(
    bundle: Path, change: dict[str, object]
) -> None:
    path = bundle / "metadata.json"
    tree = json.loads(path.read_bytes())
    path.write_text(json.dumps(tree | change))
    with pytest.raises(RejectedError, match=next(iter(change))):
        check(bundle)
    for name in change:
        path.write_text(json.dumps({key: value for key, value in tree.items() if key != name}))
    with pytest.raises(RejectedError, match=next(iter(change))):
        check(bundle)


@pytest.mark.parametrize("when", [1751817911.4, 1751817911, "2025-07-09T15:38:37.335051"])
def test_both_ways_of_writing_a_time_are_good(bundle: Path, when: object) -> None:
    path = bundle / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"created_at": when, "own": [1]}))
    assert check(bundle).files == 6


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(97 + n)}: &{chr(97 + n)} [{', '.join(['*' + chr(96 + n)] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    ["", "just text", "- a\n- b", "a: [", "a: !!python/object/apply:os.system [x]", BOMB,
     "a: &a [*a]", "a: " + "[" * 100 + "]" * 100, "a: " + "[" * 90_000, "a: 2025-13-45",
     "? [a]\n: b\n? {a: b}\n: c", "a: b\n---\nc: d", "a: \x01", "\xff\xfe", "{" * 5000,
     "a: *none", "a: !!int x", "a: !!timestamp x", "a:\n" + "- x\n" * 200_000],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
def test_a_config_that_is_no_plain_bounded_mapping_is_refused(text: str) -> None:
    with pytest.raises(RejectedError, match="config.yaml") as told:
        _check_config(text.encode("latin-1"))
    assert str(told.value).isprintable()


def test_a_config_larger_than_a_config_is_refused(bundle: Path) -> None:
    (bundle / "config.yaml").write_text("a: " + "x" * 2**20)
    with pytest.raises(RejectedError, match="config.yaml has"):
        check(bundle)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:&*!-[]{}|>?'\"#%\n 0.2e~<=", max_size=60) | st.binary(max_size=60))
def test_any_config_is_read_or_refused_and_nothing_else(text: str | bytes) -> None:
    try:
        _check_config(text.encode() if isinstance(text, str) else text)
    except RejectedError as error:
        assert str(error).isprintable()


def test_a_torn_copy_of_any_file_with_a_model_is_refused(bundle: Path) -> None:
    for name in ("policy.pt", "value_function.pt", "feature_scaler.pkl", "metadata.json"):
        whole = (bundle / name).read_bytes()
        for kept in (0, 1, len(whole) // 2, len(whole) - 2):
            (bundle / name).write_bytes(whole[:kept])
            with pytest.raises(RejectedError, match=name):
                check(bundle)
        (bundle / name).write_bytes(whole)
    assert check(bundle, listed=True).files == 6


def test_validation_imports_nothing_that_the_init_container_must_not_pay_for() -> None:
    program = (
        "import sys; from agent.bundles.validation import validate_bundle\n"
        "heavy = {'asyncio', 'urllib3', 'watchdog', 'prometheus_client', 'ssl', 'torch'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
