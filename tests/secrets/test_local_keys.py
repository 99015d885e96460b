"""The local store over its life: other keys, other machines, older copies, versions before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.secrets import transfer
from agent.secrets.errors import (
    KeyFileError,
    NotFoundError,
    RolledBackError,
    StoreError,
    WrongKeyError,
)
from agent.secrets.model import SecretType
from agent.secrets.providers import highwater
from agent.secrets.providers.local import LocalStore
from agent.units import SecretName
from tests.secrets.kills import killed_at_every_change, needs_strace

A, B = SecretName("a"), SecretName("b/c")


def private(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o400)
    return path


@pytest.fixture
def new_key(tmp_path: Path) -> Path:
    return private(tmp_path / "new.key", bytes(range(100, 132)))


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    return private(tmp_path / "passphrase", b"correct horse battery staple\n")


def filled(store: LocalStore) -> LocalStore:
    store.write(A, b'"1"')
    store.write(A, b'"2"', secret_type=SecretType.JWT_SECRET, description="why")
    store.write(B, b"\x00\xff", kind="bytes")
    return store


# -- another key ----------------------------------------------------------------------------------


def test_through_a_change_of_key_a_reader_that_knows_both_reads_on(
    store: LocalStore, key_file: Path, new_key: Path
) -> None:
    filled(store)
    both = LocalStore(store.path, key_file=key_file, next_key_file=new_key)
    assert both.read(A).value.reveal() == b'"2"'
    assert both.rekey(new_key.read_bytes()) == 2
    assert both.read(A).value.reveal() == b'"2"'
    assert both.read(A).version == "2"
    assert both.read(A).previous is not None
    assert both.read(B).kind == "bytes"
    assert both.write(A, b'"3"') == "3"
    after = LocalStore(store.path, key_file=new_key)
    assert after.read(A).value.reveal() == b'"3"'
    with pytest.raises(WrongKeyError):
        LocalStore(store.path, key_file=key_file).read(A)
    with pytest.raises(KeyFileError, match="under this key already"):
        both.rekey(new_key.read_bytes())


def test_after_a_change_of_key_nothing_beside_the_store_opens_with_the_old_one(
    store: LocalStore, key_file: Path, new_key: Path
) -> None:
    filled(store)
    LocalStore(store.path, key_file=key_file, next_key_file=new_key).rekey(new_key.read_bytes())
    for path in store.path.parent.glob("secrets.enc*"):
        if path.stat().st_size:
            with pytest.raises(WrongKeyError):
                LocalStore(path, key_file=key_file).list()


def test_the_new_key_is_enough_once_the_old_one_is_gone(
    store: LocalStore, key_file: Path, new_key: Path
) -> None:
    filled(store).rekey(new_key.read_bytes())
    key_file.unlink()
    both = LocalStore(store.path, key_file=key_file, next_key_file=new_key)
    assert both.read(A).value.reveal() == b'"2"'


def test_a_store_under_a_passphrase_moves_to_a_key(
    tmp_path: Path, passphrase: Path, new_key: Path
) -> None:
    store = filled(LocalStore(tmp_path / "s.enc", passphrase_file=passphrase))
    both = LocalStore(store.path, passphrase_file=passphrase, next_key_file=new_key)
    assert both.rekey(new_key.read_bytes()) == 2
    assert both.read(A).value.reveal() == b'"2"'
    assert LocalStore(store.path, key_file=new_key).read(B).value.reveal() == b"\x00\xff"


def test_readers_in_other_processes_see_no_gap_while_keys_change_to_and_fro(
    store: LocalStore, key_file: Path, new_key: Path
) -> None:
    filled(store)
    code = (
        "import sys, pathlib\nfrom agent.secrets.providers.local import LocalStore\n"
        "path, old, new = map(pathlib.Path, sys.argv[1:])\n"
        "store = LocalStore(path, key_file=old, next_key_file=new)\n"
        "print('on', flush=True)\n"
        "count = 0\n"
        "while not (path.parent / 'stop').exists():\n"
        "    assert store.read('a').value.reveal() == b'\"2\"'\n    count += 1\n"
        "print(count)\n"
    )
    words = [sys.executable, "-c", code, str(store.path), str(key_file), str(new_key)]
    reader = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "on\n"
    both = LocalStore(store.path, key_file=key_file, next_key_file=new_key)
    for _ in range(10):
        both.rekey(new_key.read_bytes())
        both.rekey(key_file.read_bytes())
    (store.path.parent / "stop").touch()
    out, _ = reader.communicate(timeout=30)
    assert reader.returncode == 0
    assert int(out) > 0


REKEY = """
import os, pathlib, sys
from agent.secrets.providers.local import LocalStore
folder = pathlib.Path(sys.argv[1])
both = LocalStore(
    folder / "secrets.enc", key_file=folder / "store.key", next_key_file=folder / "new.key"
)
key = (folder / "new.key").read_bytes()
both.read("a")
os.getpriority(os.PRIO_PROCESS, 0)
both.rekey(key)
os.getpriority(os.PRIO_PROCESS, 0)
"""


@needs_strace
def test_a_kill_at_any_step_of_a_change_of_key_leaves_a_store_under_one_of_them(
    store: LocalStore, key_file: Path, new_key: Path, tmp_path: Path
) -> None:
    filled(store)
    whole = store.path.read_bytes()
    keys = set()

    def restore() -> None:
        store.path.write_bytes(whole)

    for point in killed_at_every_change(REKEY, [str(tmp_path)], restore):
        both = LocalStore(store.path, key_file=key_file, next_key_file=new_key)
        assert both.read(A).value.reveal() == b'"2"', point
        keys.add(json.loads(store.path.read_bytes())["key_check"])
    assert len(keys) == 2


# -- versions before, removal ---------------------------------------------------------------------


def test_the_version_before_is_kept_and_an_equal_put_does_not_push_it_out(
    store: LocalStore,
) -> None:
    filled(store)
    store.write(A, b'"2"')
    before = store.read(A).previous
    assert before is not None
    assert (before.value.reveal(), before.version) == (b'"1"', "1")
    assert transfer.previous_value(store, A) == (b'"1"', "1")
    with pytest.raises(NotFoundError, match="before the current one"):
        transfer.previous_value(store, B)


def test_what_is_deleted_is_gone_from_the_file_and_only_that(store: LocalStore) -> None:
    filled(store)
    store.delete(A)
    with pytest.raises(NotFoundError):
        store.read(A)
    assert [entry.name for entry in store.list()] == [B]
    before = store.path.read_bytes()
    with pytest.raises(NotFoundError):
        store.delete(A)
    assert store.path.read_bytes() == before


# -- older copies ---------------------------------------------------------------------------------


@pytest.fixture
def watched(store: LocalStore, key_file: Path, tmp_path: Path) -> LocalStore:
    (tmp_path / "state").mkdir()
    return filled(LocalStore(store.path, key_file=key_file, state=tmp_path / "state"))


def test_an_older_copy_is_refused_for_reading_and_writing_until_it_is_accepted(
    watched: LocalStore, key_file: Path, tmp_path: Path
) -> None:
    old = watched.path.with_name("secrets.enc.previous").read_bytes()
    watched.path.write_bytes(old)
    again = LocalStore(watched.path, key_file=key_file, state=tmp_path / "state")
    for store in (watched, again):
        with pytest.raises(RolledBackError, match="generation 2 and this machine has seen 3"):
            store.read(A)
        with pytest.raises(RolledBackError):
            store.write(A, b'"x"')
    assert watched.path.read_bytes() == old
    assert again.accept_older() == 2
    assert again.read(A).value.reveal() == b'"2"'
    assert again.write(A, b'"4"') == "3"


def test_a_copy_that_went_its_own_way_is_told_apart_by_its_seal(
    watched: LocalStore, key_file: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.enc"
    elsewhere.write_bytes(watched.path.with_name("secrets.enc.previous").read_bytes())
    LocalStore(elsewhere, key_file=key_file).write(B, b"other", kind="bytes")
    watched.path.write_bytes(elsewhere.read_bytes())
    with pytest.raises(RolledBackError, match="not the one of that number"):
        watched.read(B)


def test_a_store_begun_anew_counts_on_and_a_damaged_mark_locks_nobody_out(
    watched: LocalStore, key_file: Path, tmp_path: Path
) -> None:
    watched.path.unlink()
    watched.write(A, b'"new"')
    assert json.loads(watched.path.read_bytes())["generation"] == 4
    (tmp_path / "state" / highwater.NAME).write_text("[1")
    again = LocalStore(watched.path, key_file=key_file, state=tmp_path / "state")
    assert again.read(A).value.reveal() == b'"new"'
    assert "new" not in (tmp_path / "state" / highwater.NAME).read_text()


# -- another machine ------------------------------------------------------------------------------


def test_an_export_brings_everything_to_another_store(
    store: LocalStore, tmp_path: Path, new_key: Path, passphrase: Path
) -> None:
    filled(store)
    target = tmp_path / "out.enc"
    assert transfer.export(store, target, passphrase) == [A, B]
    assert target.stat().st_mode & 0o777 == 0o600
    other = LocalStore(tmp_path / "other.enc", key_file=new_key)
    versions = transfer.import_from(other, target, passphrase, replace=False)
    assert versions == {A: "1", B: "1"}
    assert [(e.name, e.secret_type, e.description) for e in other.list()] == [
        (e.name, e.secret_type, e.description) for e in store.list()
    ]
    assert other.read(B).value.reveal() == b"\x00\xff"
    assert transfer.import_from(other, target, passphrase, replace=False) == {}
    with pytest.raises(StoreError, match="exists already"):
        transfer.export(store, target, passphrase)


def test_an_import_that_would_overwrite_takes_nothing_in_unless_told(
    store: LocalStore, tmp_path: Path, new_key: Path, passphrase: Path
) -> None:
    filled(store)
    transfer.export(store, tmp_path / "out.enc", passphrase)
    other = LocalStore(tmp_path / "other.enc", key_file=new_key)
    other.write(B, b"mine", kind="bytes")
    before = other.path.read_bytes()
    with pytest.raises(StoreError, match="another b/c"):
        transfer.import_from(other, tmp_path / "out.enc", passphrase, replace=False)
    assert other.path.read_bytes() == before
    done = transfer.import_from(other, tmp_path / "out.enc", passphrase, replace=True)
    assert done == {A: "1", B: "2"}


def test_a_damaged_export_a_wrong_or_a_short_passphrase_is_refused(
    store: LocalStore, tmp_path: Path, new_key: Path, passphrase: Path
) -> None:
    filled(store)
    target = tmp_path / "out.enc"
    transfer.export(store, target, passphrase)
    other = LocalStore(tmp_path / "other.enc", key_file=new_key)
    wrong = private(tmp_path / "wrong", b"another long passphrase")
    with pytest.raises(WrongKeyError):
        transfer.import_from(other, target, wrong, replace=False)
    with pytest.raises(KeyFileError, match="shorter than 12"):
        transfer.export(store, tmp_path / "x", private(tmp_path / "short", b"short"))
    target.write_bytes(target.read_bytes()[:-40])
    with pytest.raises(StoreError):
        transfer.import_from(other, target, passphrase, replace=False)
    assert not other.path.exists()
