"""A manifest says exactly what a version holds, or is refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bundles.errors import RejectedError
from agent.bundles.manifest import (
    build_manifest,
    channel_document,
    check_version,
    parse_channel,
    parse_manifest,
    sha256_file,
)
from agent.units import Digest, Version

V = Version("v1")
DIGEST = "sha256:" + "a" * 64


def document(*files: dict[str, Any], **changed: Any) -> bytes:
    listed = list(files) or [{"path": "policy.pt", "size": 1, "digest": DIGEST}]
    return json.dumps({"schema": 1, "version": "v1", "files": listed, **changed}).encode()


def entry(path: object, size: object = 1, digest: object = DIGEST) -> dict[str, Any]:
    return {"path": path, "size": size, "digest": digest}


def test_the_same_content_gives_the_same_bytes_whatever_the_order_of_writing(
    tmp_path: Path,
) -> None:
    for folder, names in (("a", ("x", "d/y", "z")), ("b", ("z", "x", "d/y"))):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    one, two = build_manifest(tmp_path / "a", V), build_manifest(tmp_path / "b", V)
    assert one.raw == two.raw
    assert one.digest == two.digest
    (tmp_path / "b" / "x").write_text("y")
    assert build_manifest(tmp_path / "b", V).digest != one.digest


def test_a_built_manifest_reads_back_and_tells_sizes_and_digests(tmp_path: Path) -> None:
    (tmp_path / "policy.pt").write_bytes(b"abc")
    (tmp_path / "manifest.json").write_text("an earlier one is no part of the bundle")
    built = build_manifest(tmp_path, V)
    assert parse_manifest(built.raw) == built
    [only] = built.files
    wanted = "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert (only.path, only.size, only.digest) == ("policy.pt", 3, wanted)
    assert sha256_file(tmp_path / "policy.pt") == wanted


@pytest.mark.parametrize("kind", ["link", "pipe", "folder link"])
def test_what_is_no_plain_file_cannot_be_listed(tmp_path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / "x")
    else:
        target = "/etc" if kind == "folder link" else "/etc/hostname"
        (tmp_path / "x").symlink_to(target)
    with pytest.raises(RejectedError, match="x is a link"):
        build_manifest(tmp_path, V)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", ".", "..", "", "a\\b", "a\nb", "a\x00b",
     "a\x7fb", "a\u202eb", "\ud800", "/".join("abcdefghij"), "x" * 300, "a/" + "é" * 200,
     "manifest.json", "manifest.sig", ".jules-tmp-0123", 7, None],
)  # fmt: skip
def test_a_path_that_is_not_plainly_below_the_bundle_is_refused(path: object) -> None:
    with pytest.raises(RejectedError):
        parse_manifest(document(entry(path)))


@pytest.mark.parametrize(
    ("one", "two"),
    [("a", "a"), ("a.PT", "A.pt"), ("straße", "STRASSE"), ("é", "e\u0301"), ("a", "a/b"),
     ("A", "a/b/c")],
)  # fmt: skip
def test_two_paths_that_are_one_somewhere_are_refused(one: str, two: str) -> None:
    for pair in ((one, two), (two, one)):
        with pytest.raises(RejectedError):
            parse_manifest(document(*(entry(path) for path in pair)))


@pytest.mark.parametrize("size", [-1, 1.5, "1", True, None, 2**60])
def test_a_size_that_is_no_number_of_bytes_is_refused(size: object) -> None:
    with pytest.raises(RejectedError, match="size"):
        parse_manifest(document(entry("a", size)))


@pytest.mark.parametrize(
    "digest",
    ["", "a" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 63, "md5:" + "a" * 64, DIGEST + "\n", 1],
)
def test_a_digest_of_another_form_is_refused(digest: object) -> None:
    with pytest.raises(RejectedError, match="digest"):
        parse_manifest(document(entry("a", 1, digest)))


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"\xff", document()[:-5], b"[" * 100_000, b'{"a": NaN}',
     b'{"version": "v1", "version": "v2"}', document(schema=2), document(schema=True),
     document(files=[]), document(files={}), document(version=1), document(version="../x"),
     document(requires=[]), document(expires="2020-01-01"), document({**entry("a"), "mode": 7}),
     b" " * 5_000_000, b'{"schema": ' + b"1" * 5000 + b"}"],
)  # fmt: skip
def test_a_document_that_is_not_a_whole_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(RejectedError):
        parse_manifest(raw)


@pytest.mark.parametrize("text", ["v1", "v2025-07-08", "1.0+cpu", "_x", "A" * 128])
def test_good_version_names(text: str) -> None:
    assert check_version(text) == text


@pytest.mark.parametrize("text", ["", ".", "..", ".x", "-x", "a/b", "a b", "v1\n", "é", "A" * 129])
def test_version_names_that_are_no_safe_path_component(text: str) -> None:
    with pytest.raises(RejectedError):
        check_version(text)


def test_a_channel_document_reads_back() -> None:
    wanted = parse_channel(channel_document(V, Digest(DIGEST)))
    assert (wanted.version, wanted.digest) == (V, DIGEST)
    assert parse_channel(b'{"version": "v1"}').digest is None


@pytest.mark.parametrize(
    "raw",
    [b"", b'{"version": "v', b"{}", b'{"version": "a/b"}', b'{"version": "v1", "digest": "x"}',
     b'{"version": "v1", "hold": true}', b'{"version": "v1", "schema": 2}'],
)  # fmt: skip
def test_a_channel_document_that_might_mean_something_else_is_refused(raw: bytes) -> None:
    with pytest.raises(RejectedError):
        parse_channel(raw)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["schema", "version", "files", "requires"]), _JSON)
       | st.binary() | _JSON)  # fmt: skip
def test_any_document_is_read_or_refused_and_nothing_else(tree: object) -> None:
    raw = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    for parse in (parse_manifest, parse_channel):
        try:
            parse(raw)
        except RejectedError as error:
            assert str(error).isprintable()
