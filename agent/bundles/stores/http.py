"""A store behind a web server: the folder store's layout over HTTP(S), read-only.

`channels/<channel>.json` is asked for with `If-None-Match`, so that a poll of what has not changed
costs a few hundred bytes. A version must have a manifest: the web has no listing that counts.
Files come by ranges, several at once, and go on where a killed download ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import quote

from agent.bundles.errors import MissingError, RejectedError, StoreError
from agent.bundles.manifest import MAX_DOCUMENT, check_version, parse_channel, parse_manifest
from agent.bundles.model import MANIFEST, SIGNATURES, Desired
from agent.bundles.signing import SIGNATURE_LIMIT
from agent.bundles.stores.ahead import Ahead
from agent.bundles.stores.base import StoreFile, Watch
from agent.bundles.stores.folder import BUNDLES, CHANNELS, check_channel
from agent.bundles.stores.web import Origin, Pace, Reply, Tls, Web, origin_of, shown
from agent.units import Bytes, Version

if TYPE_CHECKING:
    from agent.configstores import BundleStore

_TOKEN_LIMIT = 16 * 1024
_GONE = (404, 410)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A channel's document as it was last read."""

    tag: str
    desired: Desired


class HttpStore:
    """Versions and channels below a URL. Safe from any thread."""

    def __init__(self, config: BundleStore, base: str) -> None:
        """Nothing is connected yet. `base` is what `channels/` and `bundles/` are below."""
        self._config = config
        self._base = base.rstrip("/")
        self._origin = origin_of(self._base)
        self.name = shown(self._base)
        self._pace = Pace(config.bandwidth)
        self._tls = Tls(Path(config.ca_file) if config.ca_file else None)
        self._channels: dict[str, _Seen] = {}

    def desired(self, channel: str) -> Desired | None:
        """What the channel document asks for; None when there is no such channel."""
        url = f"{self._base}/{CHANNELS}/{check_channel(channel)}.json"
        seen = self._channels.get(channel)
        reply = self._get(url, MAX_DOCUMENT, {"If-None-Match": seen.tag} if seen else {})
        if reply.status == 304 and seen is not None:
            return seen.desired
        self._channels.pop(channel, None)
        if reply.status in _GONE:
            return None
        try:
            desired = parse_channel(self._sound(reply, url))
        except RejectedError as error:
            raise StoreError(f"{shown(url)}: {error}", error.remedy) from None
        tag = reply.headers.get("etag")
        if tag is not None and tag.isprintable():
            self._channels[channel] = _Seen(tag, desired)
        return desired

    def manifest(self, version: Version) -> bytes | None:
        """The exact bytes of the version's manifest.

        Raises:
            MissingError: it has none, so there is no such version.
            StoreError: the store does not answer.
        """
        url = self._url(version, MANIFEST)
        reply = self._get(url, MAX_DOCUMENT)
        if reply.status in _GONE:
            raise MissingError(f"{shown(url)} is not there", "publish that version first")
        return self._sound(reply, url)

    def signatures(self, version: Version) -> bytes | None:
        """The bytes of the version's manifest.sig; None when it has none."""
        url = self._url(version, SIGNATURES)
        reply = self._get(url, SIGNATURE_LIMIT)
        return None if reply.status in _GONE else self._sound(reply, url)

    def files(self, version: Version) -> list[StoreFile]:
        """What the manifest lists."""
        raw = self.manifest(version)
        listed = parse_manifest(raw).files if raw is not None else ()
        return sorted(
            (StoreFile(entry.path, entry.size) for entry in listed), key=lambda file: file.path
        )

    def open(self, version: Version, path: str) -> BinaryIO:
        """The bytes of one file, from the first; raises as `open_from`."""
        size = next((file.size for file in self.files(version) if file.path == path), None)
        if size is None:
            raise MissingError(f"{version} has no {path}", "publish the version again")
        return cast("BinaryIO", self.open_from(version, path, size, 0, None))

    def open_from(
        self, version: Version, path: str, size: Bytes, offset: int, tag: str | None
    ) -> Ahead:
        """The bytes of one file from `offset`, if it still is the object that `tag` names.

        Raises:
            ChangedError: it is another one.
            MissingError: there is no such file.
            StoreError: the store does not answer.
        """
        return Ahead(
            self._new_web(),
            self._url(version, path),
            size,
            offset=offset,
            tag=tag,
            streams=self._config.streams,
        )

    def watch(self, changed: Callable[[], None]) -> Watch | None:
        """The web tells nothing by itself: it is polled."""
        del changed
        return None

    def _url(self, version: Version, path: str) -> str:
        return f"{self._base}/{BUNDLES}/{check_version(version)}/{quote(path)}"

    def _new_web(self) -> Web:
        config = self._config
        return Web(
            self._base,
            timeout=config.timeout,
            headers=self._credentials,
            hosts=config.redirects,
            tls=self._tls,
            pace=self._pace,
        )

    def _get(self, url: str, limit: int, headers: Mapping[str, str] | None = None) -> Reply:
        web = self._new_web()  # nothing is kept open between two looks
        try:
            return web.get(url, limit, headers)
        finally:
            web.cut()

    def _sound(self, reply: Reply, url: str) -> bytes:
        if reply.status in (401, 403):
            raise StoreError(
                f"{shown(url)}: access is denied ({reply.status})",
                "give the agent a token or keys that may read it",
            )
        if reply.status != 200:
            raise StoreError(f"{shown(url)}: the server answers {reply.status}", "see its log")
        return reply.body

    def _credentials(self, _url: str, origin: Origin) -> Mapping[str, str]:
        """The bearer token, read again each time, for the store's own origin alone."""
        path = self._config.token_file
        if path is None or origin != self._origin:
            return {}
        try:
            with open(path, "rb") as file:
                token = file.read(_TOKEN_LIMIT).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            token = ""
        if not token or not token.isprintable() or " " in token:
            raise StoreError(f"{path} holds no token", "write one line into it")
        return {"Authorization": f"Bearer {token}"}
