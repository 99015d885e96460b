"""What every test may ask for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    """A fresh folder in memory, on the tmpfs that every Linux user has."""
    folder = Path(tempfile.mkdtemp(prefix="jules-test-", dir="/dev/shm"))
    yield folder
    for path, _, _ in os.walk(folder):
        with suppress(OSError):
            os.chmod(path, 0o700)  # generations may be read-only
    shutil.rmtree(folder, ignore_errors=True)
