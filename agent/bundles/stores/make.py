"""The store that a configuration names. Only its own module is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.bundles.stores.folder import FolderStore

if TYPE_CHECKING:
    from agent.bundles.stores.base import Store
    from agent.config import Bundles


def make_store(config: Bundles) -> Store | None:
    """The configured store; None where there is none. Nothing is connected or read yet."""
    return FolderStore(Path(config.store.path)) if config.store else None
