"""The local store as files: keys, locks, durability, and what a bad day leaves of it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent import fs
from agent.secrets.errors import (
    KeyFileError,
    NotFoundError,
    StoreError,
    UnavailableError,
    WrongKeyError,
)
from agent.secrets.model import SecretType, secret_name
from agent.secrets.providers import sealed
from agent.secrets.providers.local import LocalStore
from agent.units import SecretName
from tests.secrets.kills import killed_at_every_change, needs_strace

NAME = secret_name("database/main")
KEY = bytes(range(32))
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


def test_a_secret_is_read_back_with_all_that_is_known_of_it(store: LocalStore) -> None:
    store.write(NAME, b'"v"', secret_type=SecretType.DATABASE_PASSWORD, description="the ledger")
    seen = store.read(NAME)
    assert (seen.value.reveal(), seen.version, seen.provider) == (b'"v"', "1", "local")
    assert (seen.secret_type, seen.description) == (SecretType.DATABASE_PASSWORD, "the ledger")


def test_each_write_is_a_new_version_and_the_store_before_it_is_kept(store: LocalStore) -> None:
    store.write(NAME, b"1")
    first = store.path.read_bytes()
    assert store.write(NAME, b"2") == "2"
    assert store.path.with_name("secrets.enc.previous").read_bytes() == first
    assert store.read(NAME).value.reveal() == b"2"


def test_every_byte_value_survives(store: LocalStore) -> None:
    store.write(NAME, bytes(range(256)), kind="bytes")
    assert store.read(NAME).value.reveal() == bytes(range(256))


def test_the_store_and_its_lock_are_closed_to_others(store: LocalStore) -> None:
    store.write(NAME, b"1")
    store.write(NAME, b"2")
    for path in store.path.parent.glob("secrets.enc*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_list_names_everything_and_shows_no_value(store: LocalStore) -> None:
    store.write(NAME, b'"first-value"', description="d")
    store.write(secret_name("api_key/x"), b'"second-value"')
    assert [entry.name for entry in store.list()] == ["api_key/x", "database/main"]
    assert "value" not in repr(store.list())


def test_no_such_secret_and_no_such_store_are_told_apart(store: LocalStore) -> None:
    with pytest.raises(UnavailableError, match="no local store"):
        store.read(NAME)
    store.write(NAME, b"1")
    with pytest.raises(NotFoundError, match="api_key/none"):
        store.read(secret_name("api_key/none"))


def test_a_damaged_store_is_neither_read_nor_overwritten(store: LocalStore) -> None:
    store.write(NAME, b"1")
    good = store.path.read_bytes()
    for place in range(0, len(good), 29):
        damaged = bytearray(good)
        damaged[place] ^= 0x11
        store.path.write_bytes(damaged)
        with pytest.raises(StoreError):
            store.read(NAME)
        with pytest.raises(StoreError):
            store.write(NAME, b"2")
        assert store.path.read_bytes() == damaged
    for length in range(0, len(good), 41):
        store.path.write_bytes(good[:length])
        with pytest.raises(StoreError, match=str(store.path)):
            store.write(NAME, b"2")
        assert store.path.read_bytes() == good[:length]


def test_a_wrong_key_neither_reads_nor_writes(store: LocalStore, tmp_path: Path) -> None:
    store.write(NAME, b"1")
    before = store.path.read_bytes()
    other = tmp_path / "other.key"
    other.write_bytes(os.urandom(32))
    other.chmod(0o600)
    for wrong in (LocalStore(store.path, key_file=other), LocalStore(store.path, passphrase=b"x")):
        with pytest.raises(WrongKeyError):
            wrong.read(NAME)
        with pytest.raises(WrongKeyError):
            wrong.write(NAME, b"2")
    assert store.path.read_bytes() == before


def test_a_passphrase_opens_the_store_that_was_written_with_it(tmp_path: Path) -> None:
    path, file = tmp_path / "s.enc", tmp_path / "passphrase"
    file.write_text("correct horse battery staple\n")
    file.chmod(0o600)
    LocalStore(path, passphrase_file=file).write(NAME, b"1")
    same = LocalStore(path, passphrase=b"correct horse battery staple")
    assert same.read(NAME).value.reveal() == b"1"
    with pytest.raises(WrongKeyError):
        LocalStore(path, passphrase=b"another").read(NAME)


def test_a_passphrase_is_stretched_once_for_many_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "s.enc", passphrase=b"p")
    store.write(NAME, b"1")
    monkeypatch.setattr(sealed, "master_key", lambda *_: pytest.fail("derived again"))
    assert store.read(NAME).value.reveal() == b"1"


# -- key files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [KEY, KEY.hex().encode() + b"\n", base64.b64encode(KEY) + b"\n"],
    ids=["raw", "hex", "base64"],
)
def test_a_key_is_read_as_raw_hex_or_base64(tmp_path: Path, key_file: Path, form: bytes) -> None:
    LocalStore(tmp_path / "s", key_file=key_file).write(NAME, b"1")
    other = tmp_path / "form.key"
    other.write_bytes(form)
    other.chmod(0o400)
    assert LocalStore(tmp_path / "s", key_file=other).read(NAME).value.reveal() == b"1"


@pytest.mark.parametrize("form", [b"", b"short", b"x" * 31, b"x" * 33, b"zz" * 32, b"k" * 9000])
def test_a_file_that_holds_no_key_is_refused_without_showing_it(
    tmp_path: Path, form: bytes
) -> None:
    bad = tmp_path / "bad.key"
    bad.write_bytes(form)
    bad.chmod(0o400)
    with pytest.raises(KeyFileError) as caught:
        LocalStore(tmp_path / "s", key_file=bad).write(NAME, b"1")
    assert not form or form.decode() not in caught.value.told()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o420, 0o402, 0o640, 0o444])
def test_a_key_open_to_others_is_refused(tmp_path: Path, key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(KeyFileError, match="by others"):
        LocalStore(tmp_path / "s", key_file=key_file).write(NAME, b"1")


@root_only
def test_a_key_of_another_user_is_refused(tmp_path: Path, key_file: Path) -> None:
    os.chown(key_file, 1234, -1)
    with pytest.raises(KeyFileError, match="another user"):
        LocalStore(tmp_path / "s", key_file=key_file).write(NAME, b"1")


@root_only
def test_a_link_that_another_user_planted_is_not_followed(tmp_path: Path, key_file: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(key_file)
    LocalStore(tmp_path / "s", key_file=link).write(NAME, b"1")  # root's own link is
    os.lchown(link, 1234, -1)
    with pytest.raises(KeyFileError, match=r"link\.key"):
        LocalStore(tmp_path / "s", key_file=link).read(NAME)


def test_a_pipe_or_folder_in_place_of_the_key_is_refused_and_never_waited_for(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("pipe", "folder", "missing"):
        with pytest.raises(KeyFileError, match=name):
            LocalStore(tmp_path / "s", key_file=tmp_path / name).write(NAME, b"1")


# -- several at once, and kills ----------------------------------------------------------------

PUTTER = """
import sys
from pathlib import Path
from agent.secrets.model import secret_name
from agent.secrets.providers.local import LocalStore
folder, who = Path(sys.argv[1]), sys.argv[2]
store = LocalStore(folder / "secrets.enc", key_file=folder / "store.key")
for i in range(8):
    store.write(secret_name(f"p{who}/{i}"), b"1")
    store.write(secret_name("shared"), who.encode())
"""


def test_writes_from_several_processes_lose_nothing(store: LocalStore) -> None:
    folder = str(store.path.parent)
    running = [
        subprocess.Popen([sys.executable, "-c", PUTTER, folder, str(who)]) for who in range(4)
    ]
    assert [process.wait(60) for process in running] == [0] * 4
    names = {entry.name for entry in store.list()}
    assert names == {"shared"} | {f"p{who}/{i}" for who in range(4) for i in range(8)}
    assert store.read(SecretName("shared")).version == "32"
    assert not list(store.path.parent.glob(fs.TEMP_PREFIX + "*"))


ONE_PUT = """
import os, sys
from pathlib import Path
from agent.secrets.model import secret_name
from agent.secrets.providers.local import LocalStore
folder = Path(sys.argv[1])
store = LocalStore(folder / "secrets.enc", key_file=folder / "store.key")
os.getpriority(os.PRIO_PROCESS, 0)
store.write(secret_name("database/main"), b"new")
os.getpriority(os.PRIO_PROCESS, 0)
"""


@needs_strace
def test_a_write_killed_at_any_step_leaves_the_old_store_or_the_new(
    store: LocalStore, tmp_path: Path
) -> None:
    store.write(NAME, b"old")
    whole = store.path.read_bytes()
    seen = set()

    def restore() -> None:
        store.path.write_bytes(whole)

    for point in killed_at_every_change(ONE_PUT, [str(tmp_path)], restore):
        value = store.read(NAME).value.reveal()
        assert value in (b"old", b"new"), point
        seen.add(value)
        store.write(NAME, b"after")  # nothing that the kill left is in the way
    assert seen == {b"old", b"new"}


def test_what_a_killed_write_left_long_ago_is_removed_by_the_next(store: LocalStore) -> None:
    store.write(NAME, b"1")
    old, young = (store.path.parent / (fs.TEMP_PREFIX + name) for name in ("old", "young"))
    old.write_bytes(b"")
    young.write_bytes(b"")
    os.utime(old, (1, 1))
    store.write(NAME, b"2")
    assert not old.exists()
    assert young.exists()


def test_a_folder_that_cannot_be_written_is_our_own_error(tmp_path: Path, key_file: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be"):
        LocalStore(tmp_path / "file" / "s.enc", key_file=key_file).write(NAME, b"1")


def test_the_marker_moves_with_every_write_and_not_with_a_read(store: LocalStore) -> None:
    marks = [store.marker()]
    for value in (b"1", b"2", b"2"):
        store.write(NAME, value)
        marks.append(store.marker())
        store.read(NAME)
        assert store.marker() == marks[-1]
    assert len(set(marks)) == 4
