"""The pages on secrets say what is so: their programs are run, their example is read back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from agent.secrets.generation import Publisher
from agent.secrets.model import secret_name
from agent.secrets.providers.local import LocalStore
from tests.faults.clock import FakeClock
from tests.secrets.test_generation import items

DOCS = Path(__file__).parents[2] / "docs"


def block(page: str, language: str) -> str:
    text = (DOCS / page).read_text()
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found, f"{page} shows no {language}"
    return found.group(1)


def program(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(block(page, "python"), names)
    return names


def test_the_documented_reader_opens_the_documented_store_and_one_that_we_write(
    store: LocalStore,
) -> None:
    read = program("local-store.md")["read"]
    example, key = block("local-store.md", "json").encode(), bytes(range(32))
    assert read(example, key, "api_key/x") == b'"s3cr3t"'
    store.path.write_bytes(example)
    assert store.read(secret_name("api_key/x")).value.reveal() == b'"s3cr3t"'
    store.write(secret_name("b/c"), b"\x00")
    assert read(store.path.read_bytes(), key, "b/c") == b"\x00"


def test_the_documented_reader_of_the_directory_reads_what_is_published(memory: Path) -> None:
    Publisher(memory, FakeClock()).publish(items(user=b"u", deep__password=b"p"))
    read_together = program("secrets.md")["read_together"]
    assert read_together(memory, "user", "deep/password") == [b"u", b"p"]
