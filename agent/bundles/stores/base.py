"""What a rollout asks of a store. Calls block; the job runs them in a thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from agent.bundles.model import Desired
from agent.units import Bytes, Version


@dataclass(frozen=True, slots=True)
class StoreFile:
    """One file of a version in the store, without its manifest and signature."""

    path: str
    size: Bytes


class Watch(Protocol):
    """A running watch of a store."""

    def close(self) -> None:
        """Stop it; no call-back comes afterwards."""
        ...


class Store(Protocol):
    """A place that holds versions and says which one a channel wants."""

    name: str

    def desired(self, channel: str) -> Desired | None:
        """What the channel document asks for; None when there is no such channel.

        Raises:
            StoreError: the store does not answer, or the document cannot be read.
        """
        ...

    def manifest(self, version: Version) -> bytes | None:
        """The exact bytes of the version's manifest; None when it has none.

        Raises:
            MissingError: there is no such version.
            StoreError: the store does not answer.
        """
        ...

    def signatures(self, version: Version) -> bytes | None:
        """The bytes of the version's manifest.sig; None when it has none; raises as `manifest`."""
        ...

    def files(self, version: Version) -> list[StoreFile]:
        """What the version holds; raises as `manifest`, and RejectedError for what is no plain
        file (links, devices)."""
        ...

    def open(self, version: Version, path: str) -> BinaryIO:
        """The bytes of one file, never through a link; raises as `files`."""
        ...

    def watch(self, changed: Callable[[], None]) -> Watch | None:
        """Call `changed`, from any thread, whenever the store may say something new; None where
        only polling helps."""
        ...
