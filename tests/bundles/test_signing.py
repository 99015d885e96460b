"""Who has signed what, and whether an older version may come back."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.audit import AuditLog
from agent.bundles.errors import BundleError, RejectedError, StoreError
from agent.bundles.init import init_bundle
from agent.bundles.layout import Layout
from agent.bundles.manifest import channel_document, parse_channel, parse_manifest
from agent.bundles.model import Manifest, Terms, WayBack
from agent.bundles.packing import Signer, pack, sign_folder, verify_folder
from agent.bundles.publish import channel_bytes, publish, swap_channel
from agent.bundles.signing import (
    KeyFileError,
    add_signature,
    compose_signatures,
    good_keys,
    new_private_key,
    parse_signatures,
    private_key,
    public_bytes,
    public_text,
    read_private_key,
    sign,
    told,
)
from agent.bundles.stores.folder import FolderStore
from agent.bundles.trust import Proof, Trust, TrustError, way_back_statement
from agent.clock import SystemClock
from agent.config import Config
from agent.configpod import Bundles
from agent.configstores import Trust as Section
from agent.units import UnixTime, Version
from tests.bundles.made import bundle

KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n, name in enumerate("abc")}
PUBLIC = {name: key.public_key().public_bytes_raw() for name, key in KEYS.items()}
NOW = UnixTime(1_800_000_000)


def by(name: str) -> Signer:
    return lambda document: sign(document, KEYS[name], name)


def section(names: str = "a", **more: Any) -> Section:
    return Section(keys={name: public_text(KEYS[name]) for name in names}, **more)


def manifest(sequence: int | None = None, expires: float | None = None, **more: Any) -> Manifest:
    terms = Terms(sequence, None if expires is None else UnixTime(expires), **more)
    tree: dict[str, Any] = {"schema": 1, "version": "v1"}
    tree["files"] = [{"path": "a", "size": 1, "digest": "sha256:" + "a" * 64}]
    if terms.agent:
        tree["requires"] = {"agent": terms.agent}
    if sequence is not None:
        tree["sequence"] = sequence
    if expires is not None:
        tree["expires"] = "2026-01-31T00:00:00Z" if expires < NOW else "2056-01-31T00:00:00Z"
    return parse_manifest(json.dumps(tree).encode())


def signed(document: Manifest, names: str = "a") -> bytes:
    return compose_signatures([by(name)(document.raw) for name in names])


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(section(), tmp_path, channel="test", production=True)


def judge(trust: Trust, document: Manifest, raw: bytes | None = None, **more: Any) -> int | None:
    raw = signed(document) if raw is None else raw
    return trust.judge(document, raw or None, now=NOW, **{"person": False, **more})


# -- signatures ---------------------------------------------------------------------------------


def test_a_signature_counts_for_exactly_these_bytes_and_only_by_a_trusted_key() -> None:
    one = by("a")(b"document")
    assert good_keys(b"document", [one], PUBLIC) == ["a"]
    assert good_keys(b"document ", [one], PUBLIC) == []
    assert good_keys(b"document", [one], {"b": PUBLIC["b"]}) == []
    assert good_keys(b"document", [one], {"a": PUBLIC["b"]}) == []


def test_a_key_under_two_ids_counts_once() -> None:
    twice = [sign(b"x", KEYS["a"], "a"), sign(b"x", KEYS["a"], "other")]
    assert len(good_keys(b"x", twice, {"a": PUBLIC["a"], "other": PUBLIC["a"]})) == 1


def test_a_new_key_signs_beside_the_old_one_and_signing_again_replaces() -> None:
    raw = add_signature(None, by("a")(b"old"))
    raw = add_signature(raw, by("b")(b"new"))
    raw = add_signature(raw, by("a")(b"new"))
    assert good_keys(b"new", parse_signatures(raw), PUBLIC) == ["a", "b"]


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{}", b"[]", b'{"schema": 1, "signatures": []}',
        b'{"schema": true, "signatures": [1]}',
        b'{"schema": 1, "signatures": [{"key_id": "a", "ed25519": "AAAA"}]}',
        b'{"schema": 1, "signatures": [{"key_id": "../a", "ed25519": "AAAA"}]}',
        compose_signatures([by("a")(b"x"), by("a")(b"x")]), b" " * 70_000,
    ],
)  # fmt: skip
def test_a_signature_file_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(RejectedError):
        parse_signatures(raw)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_signature_reader_fail_otherwise(raw: bytes) -> None:
    with contextlib.suppress(RejectedError):
        parse_signatures(raw)


def test_keys_are_read_from_what_openssl_writes(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    run = [openssl, "genpkey", "-algorithm", "ed25519", "-out", str(private)]
    subprocess.run(run, check=True, capture_output=True)
    run = [openssl, "pkey", "-in", str(private), "-pubout", "-out", str(public)]
    subprocess.run(run, check=True, capture_output=True)
    private.chmod(0o600)
    found = sign(b"x", read_private_key(private), "k")
    assert good_keys(b"x", [found], {"k": public_bytes(str(public))}) == ["k"]


def test_a_private_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(new_private_key()[0])
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="read by others"):
        read_private_key(path)


def test_what_is_no_key_is_refused_without_a_word_of_it(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError) as caught:
        private_key(b"-----BEGIN PRIVATE KEY-----\nhunter2\n", "it")
    assert "hunter2" not in caught.value.told()
    (tmp_path / "short").write_text(base64.b64encode(b"x").decode())
    with pytest.raises(KeyFileError):
        public_bytes(str(tmp_path / "short"))


# -- the rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", signed(manifest(1), "b"), signed(manifest(2)), b"{"])
def test_what_no_trusted_key_signed_is_not_brought(trust: Trust, raw: bytes) -> None:
    with pytest.raises(TrustError):
        judge(trust, manifest(1), raw)


def test_a_missing_signature_is_no_verdict_on_the_content() -> None:
    assert not issubclass(TrustError, RejectedError)  # else the good bytes would be banned


def test_as_many_different_keys_must_sign_as_the_threshold_says(tmp_path: Path) -> None:
    two = Trust(section("abc", threshold=2), tmp_path, channel="test", production=False)
    with pytest.raises(TrustError, match="1 good"):
        judge(two, manifest(1), signed(manifest(1), "a"))
    assert judge(two, manifest(1), signed(manifest(1), "ac")) == 1


def test_without_keys_only_development_takes_unsigned_bundles(tmp_path: Path) -> None:
    free = Trust(Section(), tmp_path, channel="test", production=False)
    assert judge(free, manifest(5), b"") is None
    with pytest.raises(TrustError, match="not signed"):
        judge(Trust(Section(), tmp_path, channel="t", production=True), manifest(5), b"")


def test_what_expired_is_not_brought(trust: Trust) -> None:
    with pytest.raises(TrustError, match="expired"):
        judge(trust, manifest(1, expires=1.0))
    assert judge(trust, manifest(1, expires=NOW + 1.0)) == 1


def test_a_bundle_for_a_newer_agent_waits_for_it(trust: Trust) -> None:
    with pytest.raises(TrustError, match=r"needs jules-agent 99\.0"):
        judge(trust, manifest(1, agent="99.0.0"))
    assert judge(trust, manifest(1, agent="0.0.1")) == 1


def test_a_channel_cannot_bring_back_what_is_older_and_a_person_can(trust: Trust) -> None:
    trust.accept(7)
    assert judge(trust, manifest(7)) == 7
    for old in (manifest(6), manifest()):
        with pytest.raises(TrustError, match="7 was accepted"):
            judge(trust, old)
        judge(trust, old, person=True)


def test_the_mark_outlives_the_process_and_only_grows(tmp_path: Path) -> None:
    Trust(section(), tmp_path, channel="t", production=True).accept(9)
    other = Trust(section(), tmp_path, channel="t", production=True)
    other.accept(4)
    assert other.mark == 9


@pytest.mark.parametrize("raw", ["", "{}", '{"sequence": -1}', '{"sequence": true}', "9"])
def test_a_damaged_mark_lets_a_channel_bring_nothing(
    trust: Trust, tmp_path: Path, raw: str
) -> None:
    (tmp_path / "sequence.json").write_text(raw)
    with pytest.raises(TrustError, match="cannot be read"):
        judge(trust, manifest(10))


def way_back(
    document: Manifest, key: str = "a", since: int = 7, until: float = NOW + 60
) -> WayBack:
    statement = way_back_statement(
        "test", document.version, document.digest, since, UnixTime(until)
    )
    return WayBack(since, UnixTime(until), (told(by(key)(statement)),))


def test_a_signed_way_back_leads_to_its_version_and_no_further(trust: Trust) -> None:
    trust.accept(7)
    old, other = manifest(3, expires=1.0), manifest(4)
    assert judge(trust, old, way_back=way_back(old)) == 3
    for wrong in (
        way_back(other),  # for another version
        way_back(old, key="b"),  # by nobody whom we trust
        way_back(old, until=NOW),  # over
        way_back(old, since=6),  # from before 7 was accepted
    ):
        with pytest.raises(TrustError):
            judge(trust, old, way_back=wrong)
    trust.accept(8)
    with pytest.raises(TrustError):
        judge(trust, old, way_back=way_back(old))


def test_a_way_back_cannot_stand_in_for_a_missing_signature_of_the_manifest(trust: Trust) -> None:
    with pytest.raises(TrustError, match="not signed"):
        judge(trust, manifest(3), b"", way_back=way_back(manifest(3)))


def test_a_way_back_is_read_as_it_was_written() -> None:
    document = manifest(3)
    back = way_back(document)
    desired = parse_channel(channel_document(document.version, document.digest, back))
    assert desired.way_back == back


# -- folders and stores -------------------------------------------------------------------------


def test_packing_again_gives_the_same_bytes_and_keeps_the_signature(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", "v1")
    first = pack(folder, Version("v1"), Terms(3))
    sign_folder(folder, by("a"))
    assert pack(folder, Version("v1"), Terms(3)).raw == first.raw
    assert verify_folder(folder, {"a": PUBLIC["a"]}, 1)[2] == ["a"]
    pack(folder, Version("v1"), Terms(4))
    assert not (folder / "manifest.sig").exists()


def test_a_byte_changed_after_signing_is_found_by_verify_and_by_publish(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", "v1", note="abc")
    pack(folder, Version("v1"), Terms(3))
    sign_folder(folder, by("a"))
    (folder / "README.md").write_text("abd")
    with pytest.raises(RejectedError, match="README"):
        verify_folder(folder, PUBLIC, 1)
    with pytest.raises(RejectedError, match="README"):
        publish(folder, tmp_path / "store", "v1", "test")
    assert FolderStore(tmp_path / "store").desired("test") is None


def test_a_signed_folder_is_published_as_it_stands_and_a_second_key_may_sign_later(
    tmp_path: Path,
) -> None:
    folder, store = bundle(tmp_path / "b", "v1"), tmp_path / "store"
    packed = pack(folder, Version("v1"), Terms(3))
    sign_folder(folder, by("a"))
    assert publish(folder, store, "v1", "test").raw == packed.raw
    publish(folder, store, "v1", "test", signer=by("b"))
    raw = FolderStore(store).signatures(Version("v1"))
    assert raw is not None
    assert good_keys(packed.raw, parse_signatures(raw), PUBLIC) == ["a", "b"]


def test_a_channel_that_somebody_else_moved_meanwhile_is_left_alone(tmp_path: Path) -> None:
    folder, store = bundle(tmp_path / "b", "v1"), tmp_path / "store"
    first = publish(folder, store, "v1", "test")
    seen = channel_bytes(store, "test")
    theirs = channel_document(Version("theirs"), None)
    swap_channel(store, "test", seen, theirs)
    with pytest.raises(StoreError, match="somebody else"):
        swap_channel(store, "test", seen, channel_document(Version("v1"), first.digest))
    assert channel_bytes(store, "test") == theirs


# -- through the agent --------------------------------------------------------------------------


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., str]:
    (tmp_path / "state").mkdir()

    def run(keys: Section) -> str:
        audit = AuditLog(tmp_path / "state")
        values: dict[str, Any] = {
            "root": tmp_path / "models",
            "store": {"path": tmp_path / "store"},
            "limits": {"headroom": 0},
            "trust": keys,
        }
        try:
            return init_bundle(
                Bundles(**values),
                channel="test",
                manifest_required=True,
                production=True,
                state_dir=tmp_path / "state",
                audit=audit,
                clock=SystemClock(),
            )
        finally:
            audit.close()

    return run


def test_a_fresh_node_brings_what_is_signed_and_keeps_the_signature(
    tmp_path: Path, bring: Callable[..., str]
) -> None:
    folder = bundle(tmp_path / "b", "v1")
    publish(folder, tmp_path / "store", "v1", "test")
    with pytest.raises(BundleError, match="not signed"):
        bring(section())
    publish(folder, tmp_path / "store", "v1", "test", signer=by("a"))
    assert bring(section()) == "v1"
    assert (tmp_path / "models" / "current" / "manifest.sig").exists()


def test_whoever_can_write_the_store_but_not_sign_brings_nothing_old_back(
    tmp_path: Path, bring: Callable[..., str]
) -> None:
    store = tmp_path / "store"
    for number, name in enumerate(("v1", "v2"), start=1):
        made = bundle(tmp_path / name, name)
        publish(made, store, name, "test", terms=Terms(number), signer=by("a"))
    assert bring(section()) == "v2"
    old = FolderStore(store).manifest(Version("v1"))
    assert old is not None
    first = parse_manifest(old)
    (store / "channels" / "test.json").write_bytes(channel_document(first.version, first.digest))
    assert bring(section()) == "v2"
    until = UnixTime(int(SystemClock().now()) + 60)
    statement = way_back_statement("test", first.version, first.digest, 2, until)
    back = WayBack(2, until, (told(by("a")(statement)),))
    (store / "channels" / "test.json").write_bytes(
        channel_document(first.version, first.digest, back)
    )
    assert bring(section()) == "v1"
    assert Layout(tmp_path / "models").live() == "v1"


def test_the_mark_is_not_moved_by_content_that_turns_out_bad(
    tmp_path: Path, bring: Callable[..., str]
) -> None:
    store = tmp_path / "store"
    publish(bundle(tmp_path / "v1", "v1"), store, "v1", "test", terms=Terms(1), signer=by("a"))
    assert bring(section()) == "v1"
    publish(bundle(tmp_path / "v2", "v2"), store, "v2", "test", terms=Terms(9), signer=by("a"))
    damaged = store / "bundles" / "v2" / "metadata.json"  # no earlier version has it
    damaged.chmod(0o644)
    damaged.write_bytes(b"?" * damaged.stat().st_size)
    assert bring(section()) == "v1"
    assert Trust(section(), tmp_path / "state", channel="test", production=True).mark == 1


def test_production_with_a_store_and_no_key_is_refused_when_it_is_read(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"environment": "production", "bundles": {"store": {"path": "/srv"}}}
    with pytest.raises(ValidationError, match=r"bundles\.trust\.keys names no key"):
        Config.model_validate(tree)
    tree["bundles"]["trust"] = {"required": False}
    Config.model_validate(tree)


@pytest.mark.parametrize(
    "tree",
    [{"keys": {"a": "AAAA"}}, {"keys": {"../a": PUBLIC["a"].hex()}}, {"threshold": 0},
     {"keys": {"a": base64.b64encode(PUBLIC["a"]).decode()}, "threshold": 2}],
)  # fmt: skip
def test_a_key_ring_that_cannot_be_meant_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Section.model_validate(tree)


# -- the commands -------------------------------------------------------------------------------


def run(*words: str, code: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "agent", "bundle", *words, "--json"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr.decode()
    raw = done.stdout if code == 0 else done.stderr
    tree: dict[str, Any] = json.loads(raw)
    return tree


def test_a_pipeline_packs_signs_verifies_publishes_and_goes_back(tmp_path: Path) -> None:
    key, store = str(tmp_path / "key.pem"), str(tmp_path / "store")
    public = run("new-key", key, "--key-id", "ci")["public"]
    run("new-key", key, code=2)  # one that is there is never overwritten
    where = ("--store", store, "--channel", "test")
    signing = ("--key", key, "--key-id", "ci")
    for number, name in enumerate(("v1", "v2"), start=1):
        folder = str(bundle(tmp_path / name, name))
        run("verify", folder, code=4)
        run("pack", folder, "--sequence", str(number), "--expires", "90d")
        run("verify", folder, "--trust", f"ci={public}", code=4)
        run("sign", folder, *signing)
        assert run("verify", folder, "--trust", f"ci={public}")["signed_by"] == ["ci"]
        assert run("publish", folder, *where)["sequence"] == number
    run("point", "v1", *where, "--back", code=2)
    run("point", "v1", *where, "--back", *signing, "--valid", "1h")
    desired = FolderStore(tmp_path / "store").desired("test")
    assert desired is not None
    assert desired.version == "v1"
    assert desired.way_back is not None
    assert desired.way_back.since == 2
    run("point", "v9", *where, code=6)
    run("publish", str(tmp_path / "v1"), "--store", f"{key}/x", "--channel", "test", code=6)


def test_publishing_with_a_key_gives_the_manifest_a_sequence(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(new_private_key()[0])
    key.chmod(0o600)
    words = ("publish", str(bundle(tmp_path / "b", "v1")), "--store", str(tmp_path / "store"))
    signing = ("--channel", "test", "--key", str(key), "--key-id", "ci")
    assert run(*words, *signing)["sequence"] > 1_700_000_000


def test_the_judge_of_one_attempt_knows_its_time_and_who_asks(trust: Trust) -> None:
    trust.accept(5)
    assert Proof(trust, NOW, person=True).judge(manifest(2), signed(manifest(2))) == 2
    with pytest.raises(TrustError):
        Proof(trust, NOW, person=False).judge(manifest(2), signed(manifest(2)))
