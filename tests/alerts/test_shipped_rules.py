"""The rules that come with the agent: loadable by both, and right in the cases that matter."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from agent.alerts.rules import AlertRule, load_rules, shipped
from tests.alerts.rule_files import play

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted((ROOT / "rules" / "tests").glob("*.yml"))
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not here"
)


def _alerts() -> list[AlertRule]:
    return [r for g in load_rules(()) for r in g.rules if isinstance(r, AlertRule)]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_our_evaluator_pages_in_each_scenario_as_it_should(path: Path) -> None:
    wrong = [f"{asked}: got {got}" for asked, holds, got in play(path) if not holds]
    assert not wrong, "\n".join(wrong)


@needs_promtool
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_prometheus_pages_in_each_scenario_as_it_should(path: Path) -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_accepts_every_shipped_file() -> None:
    files = sorted(str(path) for path in shipped().glob("*.yml"))
    done = subprocess.run(
        ["promtool", "check", "rules", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_three_critical_alerts_are_there_by_name() -> None:
    critical = {rule.name for rule in _alerts() if rule.labels["severity"].text == "critical"}
    wanted = {
        "CriticalLatencyP99High",
        "CriticalAuditLogWriteErrors",
        "CriticalCircuitBreakerTripped",
    }
    assert wanted <= critical


def test_every_alert_says_how_bad_it_is_and_what_it_is() -> None:
    for rule in _alerts():
        assert rule.labels["severity"].text in ("critical", "warning", "info"), rule.name
        assert {"summary", "description"} <= set(rule.annotations), rule.name


def test_every_runbook_that_an_alert_names_exists() -> None:
    for rule in _alerts():
        if "runbook_url" in rule.annotations:
            assert (ROOT / rule.annotations["runbook_url"].text).is_file(), rule.name


def test_no_label_holds_a_value_that_changes_while_the_alert_lasts() -> None:
    for rule in _alerts():
        for name, template in rule.labels.items():
            assert template.render({}, 1.0, {}) == template.render({}, 2.0, {}), (rule.name, name)
