"""Bundles and roots for these tests, made from the real ones that the demo ships."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from agent.bundles.layout import Layout
from agent.bundles.manifest import channel_document
from agent.bundles.model import Manifest
from agent.bundles.publish import publish
from agent.bundles.staging import stage
from agent.bundles.stores.folder import FolderStore
from agent.configpod import Limits
from agent.units import Bytes, Version

REAL = Path(__file__).parents[2] / "agent" / "demo" / "bundles" / "v2025-07-06"
LIMITS = Limits(headroom=Bytes(0))
V1, V2, V3 = Version("v1"), Version("v2"), Version("v3")


def bundle(folder: Path, version: str, *, note: str = "") -> Path:
    """A real bundle's folder under another version's name; `note` makes its content another."""
    shutil.copytree(REAL, folder)
    metadata = json.loads((folder / "metadata.json").read_bytes())
    metadata["version"] = version
    (folder / "metadata.json").write_text(json.dumps(metadata))
    if note:
        (folder / "README.md").write_text(note)
    return folder


def published(tmp: Path, version: str, channel: str = "test", *, note: str = "") -> Manifest:
    """Publish a bundle into the store `tmp/store`; the channel asks for it then."""
    source = tmp / f"source-{version}-{len(note)}"
    if not source.exists():
        bundle(source, version, note=note)
    store = tmp / "store"
    store.mkdir(exist_ok=True)
    return publish(source, store, version, channel)


def ask_for(tmp: Path, manifest: Manifest, channel: str = "test") -> None:
    """Let the channel ask for a version that is in the store."""
    path = tmp / "store" / "channels" / f"{channel}.json"
    fresh = path.with_name(".new")
    fresh.write_bytes(channel_document(manifest.version, manifest.digest))
    fresh.replace(path)


def staged(tmp: Path, layout: Layout, *versions: str) -> None:
    """Publish and stage each version; none is flipped to."""
    layout.prepare()
    for version in versions:
        published(tmp, version)
        with layout.lock("a test"):
            stage(
                layout,
                FolderStore(tmp / "store"),
                Version(version),
                limits=LIMITS,
                manifest_required=True,
            )
