"""What `pip install` brings: every file that the agent reads beside its code, and a command."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy without network, by the environment's own setuptools."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "agent", source / "agent", ignore=leave)
    flags = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *flags, "-w", str(work), str(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    (built,) = work.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package_and_nothing_of_the_tests(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("agent/")}
    here = {
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("agent/**/*"), *ROOT.glob("agent/rules_shipped/*")]
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"agent/web/page.html", "agent/rules_shipped/critical.yml", "agent/py.typed"} <= packed
    assert "agent/demo/bundles/v2025-07-06/policy.pt" in packed
    assert here - packed <= {"agent/demo/bundles/make_bundles.py"}
    assert packed <= here
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert sorted(top.split("-")[0] for top in tops) == ["agent", "jules_agent"]


def test_the_installed_wheel_finds_its_rules_page_and_bundles(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import agent, agent.web.page\n"
        "from agent.alerts.rules import load_rules\n"
        "from agent.demo.acts import BUNDLES\n"
        "assert agent.__file__.startswith(sys.argv[1]), agent.__file__\n"
        "rules = sum(len(group.rules) for group in load_rules(()))\n"
        "print(rules, (BUNDLES / 'v2025-07-06').is_dir())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(site)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rules, bundles = done.stdout.split()
    assert int(rules) >= 10
    assert bundles == "True"


def test_the_wheel_brings_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(name).decode()
    (module, function) = re.findall(r"^jules-agent = ([\w.]+):(\w+)$", text, re.MULTILINE)[0]
    assert callable(getattr(importlib.import_module(module), function))
