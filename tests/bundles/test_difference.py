"""`bundle diff`: what two versions do not share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.bundles.difference import difference, lines
from agent.bundles.errors import RejectedError
from agent.bundles.layout import Layout
from agent.bundles.staging import stage
from agent.bundles.stores.single import SingleFolder
from agent.cli import main
from tests.bundles.made import LIMITS, V1, V2, V3, bundle


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "models")
    layout.prepare()
    first = bundle(tmp_path / "one", "v1", note="first\nsame\n")
    second = bundle(tmp_path / "two", "v2", note="second\x1b[31m\nsame\n")
    (second / "extra.bin").write_bytes(b"12345")
    for version, source in ((V1, first), (V2, second)):
        store = SingleFolder(source, max_files=100)
        stage(layout, store, version, limits=LIMITS, manifest_required=False)
    return layout


def test_files_and_texts_that_differ_are_told_and_nothing_else(layout: Layout) -> None:
    told = difference(layout, V1, V2)
    changes = {item["path"]: item["change"] for item in told["files"]}
    assert changes == {"README.md": "changed", "metadata.json": "changed", "extra.bin": "added"}
    assert {item["path"]: item["after"] for item in told["files"]}["extra.bin"] == 5
    assert told["same_bytes"] > 0
    text = "\n".join(lines(told))
    assert "-first\n" in text
    assert "\x1b" not in text, "a terminal must not be told what to do by a README"
    assert difference(layout, V1, V1)["files"] == []


def test_a_version_that_is_not_here_is_named(layout: Layout) -> None:
    with pytest.raises(RejectedError, match="v3 is not there"):
        difference(layout, V1, V3)


def test_the_command_needs_no_running_agent(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"bundles: {{root: {layout.root}}}\n")
    assert main(["bundle", "diff", "v1", "v2", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == "v2"
    assert main(["bundle", "diff", "v1", "v2", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "extra.bin" in out
    assert "+++ v2/metadata.json" in out
