"""A directory in memory, a store with a key, and a provider whose answers a test decides."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent import fs
from agent.configsecrets import LocalStore as LocalConfig
from agent.configsecrets import SecretItem, Secrets
from agent.secrets.errors import NotFoundError, SecretsError
from agent.secrets.model import Fetched, SecretValue
from agent.secrets.providers.local import LocalStore
from agent.units import AbsolutePath, SecretName, UnixTime


@pytest.fixture
def memory() -> Iterator[Path]:
    """An empty directory on a tmpfs."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or fs.filesystem_type(shared) not in ("tmpfs", "ramfs"):
        pytest.skip("no tmpfs at /dev/shm")
    made = Path(tempfile.mkdtemp(prefix="jules-test-", dir=shared))
    yield made / "secrets"
    for folder, _, _ in os.walk(made):
        os.chmod(folder, 0o700)
    shutil.rmtree(made)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "store.key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o400)
    return path


@pytest.fixture
def store(tmp_path: Path, key_file: Path) -> LocalStore:
    return LocalStore(tmp_path / "secrets.enc", key_file=key_file)


@pytest.fixture
def config(memory: Path, store: LocalStore, key_file: Path) -> Callable[..., Secrets]:
    """Makes a configuration of the items named, over the store."""

    def make(*items: SecretItem, **more: object) -> Secrets:
        return Secrets(
            directory=AbsolutePath(memory),
            items=items,
            local=LocalConfig(path=AbsolutePath(store.path), key_file=AbsolutePath(key_file)),
            **more,
        )

    return make


@dataclass
class FakeProvider:
    """Says what the test put into it; counts how often it was asked."""

    name: str = "fake"
    values: dict[str, bytes | SecretsError] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    mark: str = "1"
    before: Callable[[], object] = lambda: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, name: SecretName) -> Fetched:
        with self._lock:
            self.calls.append(name)
        self.before()
        found = self.values.get(name, NotFoundError(f"no secret {name}"))
        if isinstance(found, SecretsError):
            raise found
        return Fetched(name, SecretValue(found), "1", self.name, UnixTime(1.0), kind="bytes")

    def marker(self) -> str:
        return self.mark


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()
