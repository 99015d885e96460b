"""The store that a configuration names. Only its own module is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.bundles.stores.folder import FolderStore

if TYPE_CHECKING:
    from agent.bundles.stores.base import Store
    from agent.configpod import Bundles


def make_store(config: Bundles) -> Store | None:
    """The configured store; None where there is none. Nothing is connected or read yet."""
    store = config.store
    if store is None:
        return None
    if store.type == "http":
        from agent.bundles.stores.http import HttpStore

        return HttpStore(store, str(store.url))
    if store.type == "s3":
        from agent.bundles.stores.s3 import S3Store

        return S3Store(store)
    assert store.path is not None  # the configuration's own check
    return FolderStore(Path(store.path))
