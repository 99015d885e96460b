"""The pages on secrets say what is so: their programs are run, their example is read back."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from agent.configsecrets import Secrets
from agent.secrets.generation import Publisher
from agent.secrets.model import SecretType, secret_name
from agent.secrets.providers.local import LocalStore
from agent.secrets.publishing import Publishing
from agent.units import AbsolutePath
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


def test_the_documented_items_are_a_configuration_that_publishes(
    memory: Path, tmp_path: Path, key_file: Path
) -> None:
    """Every example value of the page is put, read as its type, and written in its form."""
    text = (DOCS / "secrets.md").read_text()
    tree = yaml.safe_load(block("secrets.md", "yaml").replace("/etc/jules-agent", str(tmp_path)))
    template = re.search(r"`pgpass\.j2`: `(.*)`", text)
    assert template
    (tmp_path / "pgpass.j2").write_text(template.group(1))
    values = re.findall(r"secrets put (\S+) --type (\S+)( --raw)? < \S+\n(?:    (\{.*\}))?", text)
    store = LocalStore(tmp_path / "secrets.enc", key_file=key_file)
    for name, kind, raw, value in values:
        data = value.encode() if value else b"https://example.test/hook"
        store.write(
            secret_name(name), data, kind="bytes" if raw else "json", secret_type=SecretType(kind)
        )
    if os.geteuid() != 0:
        tree["secrets"]["items"] = [
            {key: part for key, part in item.items() if key != "group"}
            for item in tree["secrets"]["items"]
        ]
    config = Secrets(**tree["secrets"], directory=AbsolutePath(memory))
    clock = FakeClock()
    made = Publishing(config, clock)
    items, errors = made.items({name: store.read(name) for name in {i.name for i in config.items}})
    assert errors == {}
    made.publish(items, errors)
    assert (memory / "pgpass").read_text() == "pg:5432:trading:desk:…"
    assert (memory / "s3" / "region").read_text() == "us-east-1"
    assert "HOST='redis'\n" in (memory / "cache" / "redis.env").read_text()
