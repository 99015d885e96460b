"""The store's format: what goes in comes out, and no byte of it is free to change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.secrets.errors import StoreError, WrongKeyError
from agent.secrets.providers import sealed

KEY = bytes(range(32))

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}(/[A-Za-z0-9_]{1,8}){0,2}", fullmatch=True)


def content(value: str = "dmFsdWU=", version: str = "1", **more: Any) -> dict[str, Any]:
    told = {"value": value, "kind": "json", "type": "api_key", "description": "", **more}
    return {**told, "version": version, "created_at": 1.0, "updated_at": 2}


def file_of(entries: dict[str, dict[str, Any]], key: bytes = KEY, generation: int = 1) -> bytes:
    document = sealed.new_document(passphrase=False)
    keys = sealed.Keys.derive(key)
    for name, told in entries.items():
        sealed.put_entry(document, keys, name, told)
    document.generation = generation
    return sealed.serialise(document, keys)


def opened(data: bytes, key: bytes = KEY) -> dict[str, Any]:
    document, seal = sealed.parse(data)
    keys = sealed.unseal(document, seal, key)
    return {name: sealed.get_entry(document, keys, name) for name in document.entries}


@settings(deadline=None, max_examples=60)
@given(
    entries=st.dictionaries(names, st.builds(content, st.text(), st.text(max_size=5)), max_size=5),
    key=st.binary(min_size=32, max_size=32),
)
def test_whatever_is_stored_is_read_back_the_same(
    entries: dict[str, dict[str, Any]], key: bytes
) -> None:
    assert opened(file_of(entries, key), key) == entries


def test_every_single_changed_byte_is_found() -> None:
    data = file_of({"a": content(), "b/c": content("eA==", description="ü")})
    for place in range(len(data)):
        for change in (0x01, 0x20, 0x2A, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= change
            with pytest.raises(StoreError):
                opened(bytes(damaged))


def test_white_space_that_json_allows_is_still_a_changed_byte() -> None:
    data = file_of({"a": content()})
    for place, byte in enumerate(data):
        if byte in b" \n":
            for other in b" \n\t\r":
                if other != byte:
                    with pytest.raises(StoreError):
                        opened(data[:place] + bytes((other,)) + data[place + 1 :])


def test_a_file_cut_anywhere_is_found() -> None:
    data = file_of({"a": content()})
    for length in range(len(data)):
        with pytest.raises(StoreError):
            opened(data[:length])


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_other_file_is_refused_with_our_own_error(data: bytes) -> None:
    with pytest.raises(StoreError):
        opened(data)


json_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    part=st.sampled_from(["kdf", "key_check", "generation", "entries", "seal", "version"]),
    tree=json_trees,
)
def test_a_part_of_any_other_shape_is_refused_with_our_own_error(part: str, tree: Any) -> None:
    whole = json.loads(file_of({"a": content()}))
    if whole[part] == tree:
        return
    whole[part] = tree
    with pytest.raises(StoreError):
        data = json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n"
        document, seal = sealed.parse(data)
        sealed.unseal(document, seal, sealed.master_key(document, KEY))


def test_a_wrong_key_is_told_apart_from_a_damaged_store() -> None:
    with pytest.raises(WrongKeyError):
        opened(file_of({"a": content()}), bytes(32))


def _edited(data: bytes, edit: Any) -> bytes:
    tree = json.loads(data)
    edit(tree)
    return json.dumps(tree, indent=1, sort_keys=True).encode() + b"\n"


def test_two_entries_cannot_be_exchanged() -> None:
    def swap(tree: dict[str, Any]) -> None:
        entries = tree["entries"]
        entries["a"], entries["b"] = entries["b"], entries["a"]

    with pytest.raises(StoreError, match="changed after it was written"):
        opened(_edited(file_of({"a": content(), "b": content()}), swap))


def test_an_exchanged_entry_is_found_even_under_a_good_seal() -> None:
    document, keys = sealed.new_document(passphrase=False), sealed.Keys.derive(KEY)
    sealed.put_entry(document, keys, "a", content())
    document.entries["b"] = document.entries["a"]
    with pytest.raises(StoreError, match="damaged"):
        opened(sealed.serialise(document, keys))


def test_an_older_entry_put_back_is_found() -> None:
    document, keys = sealed.new_document(passphrase=False), sealed.Keys.derive(KEY)
    sealed.put_entry(document, keys, "a", content("b2xk"))
    older = dict(document.entries["a"])
    sealed.put_entry(document, keys, "a", content("bmV3", version="2"))

    def put_back(tree: dict[str, Any]) -> None:
        tree["entries"]["a"] = older

    with pytest.raises(StoreError, match="changed after it was written"):
        opened(_edited(sealed.serialise(document, keys), put_back))


def test_a_removed_entry_is_found() -> None:
    with pytest.raises(StoreError):
        opened(
            _edited(
                file_of({"a": content(), "b": content()}), lambda tree: tree["entries"].pop("b")
            )
        )


def test_a_nonce_is_never_used_twice() -> None:
    document, keys = sealed.new_document(passphrase=False), sealed.Keys.derive(KEY)
    seen = set()
    for _ in range(500):
        sealed.put_entry(document, keys, "a", content())
        seen.add(document.entries["a"]["nonce"])
        seen.add(json.loads(sealed.serialise(document, keys))["seal"]["nonce"])
    assert len(seen) == 1000


def test_neither_value_nor_type_nor_description_can_be_read_without_the_key() -> None:
    data = file_of({"database/main": content("c3VwZXJzZWNyZXQ=", description="of the ledger")})
    assert b"database/main" in data
    for hidden in (b"c3VwZXJzZWNyZXQ", b"supersecret", b"ledger", b"api_key"):
        assert hidden not in data


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2**25},
        {"n": 2**15 + 1},
        {"n": 2},
        {"r": 4096},
        {"p": 99},
        {"salt": "AAAA"},
        {"n": "x"},
    ],
)
def test_a_key_derivation_that_is_weak_or_eats_the_machine_is_refused(
    change: dict[str, Any],
) -> None:
    document = sealed.new_document(passphrase=True)
    document.kdf.update(change)
    with pytest.raises(StoreError, match="not sound"):
        sealed.master_key(document, b"passphrase")


def test_an_entry_that_lacks_a_part_is_refused() -> None:
    told = content()
    del told["type"]
    with pytest.raises(StoreError, match="not one that we write"):
        opened(file_of({"a": told}))
