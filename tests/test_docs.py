"""What README and docs say is checked against the code and the tree."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from agent.cli import build_parser
from agent.config import Config
from agent.configload import load_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("k8s/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_configuration", ROOT / "docs" / "make_configuration.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = _maker()
ROWS = list(MAKER.rows(Config))
ALWAYS_THERE = [
    row for row in ROWS if row.variable and row.default not in ("", "required") and not row.optional
]


def _blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of that language, in order."""
    pieces = re.split(r"^```(.*)\n", text, flags=re.MULTILINE)
    return [body for mark, body in zip(pieces[1::4], pieces[2::4], strict=True) if mark == language]


def test_the_configuration_page_is_what_the_code_says() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == MAKER.render(), "run make pages"


def test_every_option_has_a_meaning() -> None:
    assert [row.option for row in ROWS if not row.meaning] == []


def test_no_meaning_is_kept_for_an_option_that_is_gone_or_describes_itself() -> None:
    used = {row.option for row in ROWS}
    assert [option for option in MAKER._MEANINGS if option not in used] == []


def test_the_page_holds_the_depths_of_the_tree() -> None:
    options = {row.option for row in ROWS}
    assert {"environment", "bundles.bake.gates[].expr", "alerts.slack.webhook_url"} <= options


@pytest.mark.parametrize("row", ALWAYS_THERE, ids=lambda row: row.option)
def test_a_default_given_as_the_page_writes_it_changes_nothing(row: object) -> None:
    variable, default = row.variable, row.default.strip("`")  # type: ignore[attr-defined]
    assert load_config(None, {variable: default}) == load_config(None, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    fenced = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    text = fenced.sub("", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [link.split("#")[0] for link in links if not link.startswith(("http", "#", "mailto:"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(
        r"`((?:agent|tests|docs|images|k8s|rules|dashboards|benchmarks)/[\w./-]*)`",
        page.read_text(encoding="utf-8"),
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_benchmark_and_make_word_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = re.findall(r"python -m benchmarks\.(\w+)", text)
    assert [name for name in modules if not (ROOT / "benchmarks" / f"{name}.py").exists()] == []
    words = set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert words <= targets


def test_the_configuration_shown_in_the_readme_loads(tmp_path: Path) -> None:
    (example,) = _blocks(README, "yaml")
    path = tmp_path / "agent.yaml"
    path.write_text(example)
    config = load_config(path, {})
    assert [item.target for item in config.secrets.items] == [
        "database/main.json",
        "api_key/pagerduty",
    ]
    assert config.alerts.pagerduty is not None
    assert config.bundles.store is not None


def test_every_command_shown_on_a_page_is_one_that_the_program_knows() -> None:
    commands = [
        line
        for page in PAGES
        for block in _blocks(page.read_text(encoding="utf-8"), "")
        for line in block.splitlines()
        if line.startswith("jules-agent ")
    ]
    assert len(commands) >= 10
    for line in commands:
        words = shlex.split(line.split("<")[0], comments=True)
        arguments = build_parser().parse_args(words[1:])
        assert arguments.verb


def test_the_readme_shows_the_two_commands_on_its_first_screen() -> None:
    first = README.splitlines()[:15]
    assert any(line.startswith("make demo") for line in first)
    assert any(line.startswith("make test") for line in first)


def test_the_compose_file_reads_one_configuration_and_it_loads() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    mounted = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    }
    assert mounted == {"./images/compose/agent.yaml"}
    config = load_config(ROOT / "images" / "compose" / "agent.yaml", {})
    assert (config.secrets.file_mode, config.secrets.dir_mode) == (0o440, 0o750)


def test_no_service_of_the_compose_file_keeps_a_privilege() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service["user"].startswith("0"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_agent_and_trader_have_their_own_uids_and_one_group() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    agent_uid, agent_gid = services["agent"]["user"].split(":")
    trader_uid, trader_gid = services["trader"]["user"].split(":")
    assert agent_uid != trader_uid
    assert agent_gid == trader_gid
    assert all(volume.endswith(":ro") for volume in services["trader"]["volumes"])
