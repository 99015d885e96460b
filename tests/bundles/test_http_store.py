"""A store behind a real nginx, and behind servers that do what none should."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.bundles.copying import AbandonedError
from agent.bundles.errors import MissingError, RejectedError, StoreError
from agent.bundles.layout import Layout
from agent.bundles.model import FileEntry
from agent.bundles.parts import Parts
from agent.bundles.staging import stage, sweep
from agent.bundles.stores.ahead import PIECE, Ahead, ChangedError
from agent.bundles.stores.http import HttpStore
from agent.bundles.stores.web import Pace
from agent.config import Config
from agent.configstores import BundleStore
from agent.units import Bytes, Digest, Version
from tests.bundles.made import LIMITS, published
from tests.bundles.webserver import Nginx, nginx, serving

V1 = Version("v1")
BIG = os.urandom(5 * PIECE + 12345)


def web(url: str, **more: Any) -> HttpStore:
    """The store at `url`."""
    return HttpStore(BundleStore(type="http", url=url, **{"timeout": 5.0, **more}), url)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nginx]:
    (tmp_path / "store").mkdir()
    with nginx(tmp_path / "store", tmp_path / "nginx") as running:
        yield running


def big(tmp: Path, data: bytes = BIG) -> FileEntry:
    """One large object in the store, as a manifest would list it."""
    path = tmp / "store" / "bundles" / "v1" / "big"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("fresh")
    fresh.write_bytes(data)
    fresh.replace(path)
    digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
    return FileEntry("big", Bytes(len(data)), digest)


def never() -> bool:
    return False


def test_a_bundle_comes_whole_over_http(tmp_path: Path, server: Nginx) -> None:
    manifest = published(tmp_path, "v1", "test")
    layout = Layout(tmp_path / "models")
    layout.prepare()
    store = web(server.url)
    desired = store.desired("test")
    assert desired is not None
    assert (desired.version, desired.digest) == ("v1", manifest.digest)
    with layout.lock("a test"):
        draft = stage(layout, store, V1, limits=LIMITS, manifest_required=True)
    assert draft.manifest == manifest
    assert layout.flaw(V1) is None
    assert sorted(os.listdir(layout.staging)) == ["lock"]


def test_a_channel_that_has_not_changed_is_not_sent_again(tmp_path: Path, server: Nginx) -> None:
    published(tmp_path, "v1", "test")
    store = web(server.url)
    first = store.desired("test")
    assert store.desired("test") == first
    assert '" 304 0 ' in server.requests()[-1]
    published(tmp_path, "v22", "test")
    newer = store.desired("test")
    assert newer is not None
    assert newer.version == "v22"


def test_what_is_not_there_is_told_apart_from_a_store_that_is_down(
    tmp_path: Path, server: Nginx
) -> None:
    store = web(server.url)
    assert store.desired("nothing") is None
    with pytest.raises(MissingError):
        store.manifest(V1)
    published(tmp_path, "v1", "test")
    assert store.signatures(V1) is None
    with pytest.raises(MissingError):
        store.open(V1, "nothing")
    for broken in (web("http://127.0.0.1:1"), web("http://127.0.0.1:1/x")):
        with pytest.raises(StoreError, match="refused"):
            broken.desired("test")


def test_a_large_file_comes_by_ranges_in_order_and_nothing_twice(
    tmp_path: Path, server: Nginx
) -> None:
    big(tmp_path)
    with web(server.url).open_from(V1, "big", Bytes(len(BIG)), 0, None) as stream:
        assert stream.read() == BIG
    sizes = [int(line.split()[9]) for line in server.requests() if "/big" in line]
    assert len(sizes) == 6
    assert sum(sizes) == len(BIG)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_every_size_around_a_piece_arrives_whole(tmp_path: Path, server: Nginx, size: int) -> None:
    entry = big(tmp_path, BIG[:size])
    layout = Layout(tmp_path / "models")
    layout.prepare()
    Parts(layout.staging).fetch(web(server.url), V1, entry, tmp_path / "got", never)
    assert (tmp_path / "got").read_bytes() == BIG[:size]
    assert not (layout.staging / "parts").exists()


def test_a_download_that_was_stopped_goes_on_where_it_ended(tmp_path: Path, server: Nginx) -> None:
    entry, layout = big(tmp_path), Layout(tmp_path / "models")
    layout.prepare()
    parts, store = Parts(layout.staging), web(server.url)
    asked = iter([False] * 12)
    with pytest.raises(AbandonedError):
        parts.fetch(store, V1, entry, tmp_path / "got", lambda: next(asked, True))
    here = parts.held(entry.digest)
    assert here > 2 * PIECE
    sweep(layout)  # what a start does
    before = len(server.requests())
    parts.fetch(store, V1, entry, tmp_path / "got", never)
    assert (tmp_path / "got").read_bytes() == BIG
    sent = [int(line.split()[9]) for line in server.requests()[before:]]
    assert sum(sent) == len(BIG) - here


def test_a_download_killed_by_kill_9_fetches_only_the_rest(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    entry = big(tmp_path)
    layout = Layout(tmp_path / "models")
    layout.prepare()
    program = f"""
import sys
from pathlib import Path
from agent.bundles.model import FileEntry
from agent.bundles.parts import Parts
from tests.bundles.test_http_store import web
entry = FileEntry("big", {entry.size}, {entry.digest!r})
Parts(Path(sys.argv[1])).fetch(web(sys.argv[2]), "v1", entry, Path(sys.argv[3]), lambda: False)
"""
    with nginx(tmp_path / "store", tmp_path / "nginx", extra="limit_rate 6m;") as server:
        words = [str(layout.staging), server.url, str(tmp_path / "got")]
        with subprocess.Popen([sys.executable, "-c", program, *words]) as process:
            deadline = time.monotonic() + 30
            while Parts(layout.staging).held(entry.digest) < PIECE:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
    here = Parts(layout.staging).held(entry.digest)
    assert PIECE <= here < len(BIG)
    with nginx(tmp_path / "store", tmp_path / "nginx2") as server:
        Parts(layout.staging).fetch(web(server.url), V1, entry, tmp_path / "got", never)
        assert (tmp_path / "got").read_bytes() == BIG
        assert sum(int(line.split()[9]) for line in server.requests()) == len(BIG) - here


def test_an_object_that_changed_meanwhile_is_never_mixed_with_the_old_one(
    tmp_path: Path, server: Nginx
) -> None:
    entry, layout = big(tmp_path), Layout(tmp_path / "models")
    layout.prepare()
    parts, store = Parts(layout.staging), web(server.url)
    asked = iter([False] * 12)
    with pytest.raises(AbandonedError):
        parts.fetch(store, V1, entry, tmp_path / "got", lambda: next(asked, True))
    other = bytes(reversed(BIG))
    changed = big(tmp_path, other)
    os.utime(tmp_path / "store/bundles/v1/big", (1, 1))  # nginx's ETag is of time and size
    with web(server.url).open_from(V1, "big", entry.size, 0, None) as stream:
        assert stream.read() == other
    with pytest.raises(ChangedError):
        store.open_from(V1, "big", entry.size, PIECE, '"another"')
    with pytest.raises(RejectedError, match="not what its manifest says"):
        parts.fetch(store, V1, entry, tmp_path / "got", never)
    assert not (tmp_path / "got").exists()
    assert parts.held(entry.digest) == 0
    parts.fetch(store, V1, changed, tmp_path / "got", never)
    assert (tmp_path / "got").read_bytes() == other


@pytest.mark.parametrize("damage", ["zeros", "longer", "no journal"])
def test_a_part_that_a_power_cut_spoilt_is_fetched_anew_and_nobody_is_blamed(
    tmp_path: Path, server: Nginx, damage: str
) -> None:
    entry, layout = big(tmp_path), Layout(tmp_path / "models")
    layout.prepare()
    parts, store = Parts(layout.staging), web(server.url)
    asked = iter([False] * 12)
    with pytest.raises(AbandonedError):
        parts.fetch(store, V1, entry, tmp_path / "got", lambda: next(asked, True))
    part = layout.staging / "parts" / entry.digest.removeprefix("sha256:")
    if damage == "zeros":
        part.write_bytes(bytes(part.stat().st_size))
    elif damage == "longer":
        part.write_bytes(BIG + b"more")
    else:
        part.with_name(part.name + ".json").unlink()
    parts.fetch(store, V1, entry, tmp_path / "got", never)
    assert (tmp_path / "got").read_bytes() == BIG


def test_parts_of_what_nobody_wants_any_more_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).touch()
        (folder / f"{name}.json").touch()
    Parts(tmp_path).keep_only([Digest("sha256:a")])
    assert sorted(os.listdir(folder)) == ["a", "a.json"]
    Parts(tmp_path).keep_only([])
    assert not folder.exists()


def test_redirects_stay_on_the_stores_own_server_unless_allowed(
    tmp_path: Path, server: Nginx
) -> None:
    published(tmp_path, "v1", "test")
    assert web(f"{server.url}/moved").desired("test") is not None
    with pytest.raises(StoreError, match="redirect"):
        web(f"{server.url}/astray").desired("test")
    with pytest.raises(StoreError, match="more than 5"):
        web(f"{server.url}/round").desired("test")
    assert web(f"{server.url}/astray", redirects=["localhost"]).desired("test") is not None


def test_the_token_goes_to_the_store_and_not_where_a_redirect_leads(tmp_path: Path) -> None:
    seen: list[tuple[str, str | None]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.headers["Host"], self.headers.get("Authorization")))
            first = self.headers["Host"].startswith("127.")
            self.send_response(302 if first else 404)
            if first:
                port = self.headers["Host"].partition(":")[2]
                self.send_header("Location", f"http://localhost:{port}/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / "token").write_text("abc\n")
    with serving(Handler) as url:
        store = web(url, redirects=["localhost"], token_file=tmp_path / "token")
        assert store.desired("test") is None
    assert [auth for _, auth in seen] == ["Bearer abc", None]


class Odd(http.server.BaseHTTPRequestHandler):
    """Fails the first request for each range, and can do worse."""

    protocol_version = "HTTP/1.1"
    how = "fails once"
    failed: set[str | None]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        if self.how == "fails once" and asked not in self.failed:
            self.failed.add(asked)
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = 0, len(BIG) - 1
        if asked is not None and self.how != "no ranges":
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
        body = BIG[first : last + 1]
        self.send_response(206 if self.how != "no ranges" else 200)
        if self.how == "other range":
            first += 1
        if self.how != "no ranges":
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(BIG)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body[: len(body) // 2] if self.how == "half" else body)
        self.close_connection = self.how != "fails once"

    def log_message(self, *_: Any) -> None:
        pass


def odd(how: str) -> type[Odd]:
    return type("How", (Odd,), {"how": how, "failed": set()})


def test_a_piece_that_fails_is_asked_for_again(tmp_path: Path) -> None:
    with (
        serving(odd("fails once")) as url,
        web(url).open_from(V1, "big", Bytes(len(BIG)), 0, None) as stream,
    ):
        assert stream.read() == BIG


@pytest.mark.parametrize("how", ["other range", "half", "no ranges"])
def test_a_server_that_sends_other_bytes_than_asked_for_is_not_believed(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.bundles.stores.ahead._FIRST_WAIT", 0.001)
    with (
        serving(odd(how)) as url,
        pytest.raises(StoreError),
        web(url).open_from(V1, "big", Bytes(len(BIG)), 0, None) as stream,
    ):
        stream.read()


def test_a_server_that_says_nothing_ends_in_an_error() -> None:
    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(1)

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Silent) as url, pytest.raises(StoreError, match="no bytes within"):
        web(url, timeout=0.2).desired("test")


def test_a_limit_on_bandwidth_counts_the_bytes_of_all_streams_together() -> None:
    now, slept = [0.0], []

    def sleep(wait: float) -> None:
        slept.append(wait)

    pace = Pace(1000, clock=lambda: now[0], sleep=sleep)
    pace.take(500)
    pace.take(500)
    assert slept == [0.5, 1.0]  # the second waits behind the first
    now[0] = 10.0
    pace.take(100)
    assert slept[-1] == pytest.approx(0.1)  # what was not used is not saved up


@pytest.mark.parametrize(
    "tree",
    [{"type": "http"}, {"type": "folder"}, {"path": "/x", "url": "http://a"},
     {"type": "http", "url": "http://user:word@a"},
     {"type": "http", "url": "http://a", "path": "/x"},
     {"type": "http", "url": "ftp://a"}, {"type": "http", "url": "http://a?b"},
     {"type": "http", "url": "http://a", "bandwidth": 0}],
)  # fmt: skip
def test_a_store_that_cannot_be_meant_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        BundleStore.model_validate(tree)
    assert "word" not in str(caught.value)


def test_plain_http_without_signatures_is_for_development_only() -> None:
    store = {"type": "http", "url": "http://bundles.example"}
    tree: dict[str, Any] = {"environment": "staging", "bundles": {"store": store}}
    with pytest.raises(ValidationError, match="without TLS"):
        Config.model_validate(tree)
    store["url"] = "https://bundles.example"
    Config.model_validate(tree)


def test_init_brings_a_bundle_from_a_web_server(tmp_path: Path, server: Nginx) -> None:
    published(tmp_path, "v1", "development")
    config = tmp_path / "agent.yaml"
    tree = {
        "secrets": {"enabled": False},
        "bundles": {
            "root": str(tmp_path / "models"),
            "store": {"type": "http", "url": server.url},
            "limits": {"headroom": 0},
        },
    }
    config.write_text(json.dumps(tree))
    command = [sys.executable, "-m", "agent", "init", "--config", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "current" / "policy.pt").exists()


def test_closing_a_stream_early_leaves_no_thread_and_no_connection(
    tmp_path: Path, server: Nginx
) -> None:
    big(tmp_path)
    stream: Ahead = web(server.url).open_from(V1, "big", Bytes(len(BIG)), 0, None)
    assert stream.read(10) == BIG[:10]
    stream.close()
    stream.close()
    assert stream.closed


def test_over_tls_the_server_must_be_who_it_says(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([openssl, *words, *names], check=True, capture_output=True)
    (tmp_path / "store").mkdir()
    published(tmp_path, "v1", "test")
    with nginx(tmp_path / "store", tmp_path / "nginx", tls=(cert, key)) as server:
        url = server.url.replace("http:", "https:")
        assert web(url, ca_file=cert).desired("test") is not None
        with pytest.raises(StoreError, match="certificate"):
            web(url).desired("test")
        with pytest.raises(StoreError, match="certificate"):
            web(url.replace("127.0.0.1", "localhost"), ca_file=cert).desired("test")
        with pytest.raises(StoreError):
            web(server.url, ca_file=cert, timeout=2.0).desired("test")
