"""What several of these tests stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles.agents import Place, live
from tests.faults.trader import TraderStub


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    trader = TraderStub()
    made = Place(tmp_path, trader)
    trader.version = lambda: live(made)
    yield made
    trader.close()
