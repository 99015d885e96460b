"""The rules that come with the agent: loadable by both, and right in the cases that matter."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from agent.alerts.lint import warnings
from agent.alerts.rules import AlertRule, load_rules, shipped
from agent.alerts.ruletests import run_tests
from agent.units import Seconds

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted((ROOT / "rules" / "tests").glob("*.yml"))
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not here"
)


def _alerts() -> list[AlertRule]:
    return [r for g in load_rules(()) for r in g.rules if isinstance(r, AlertRule)]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_our_evaluator_pages_in_each_scenario_as_it_should(path: Path) -> None:
    checks = list(run_tests(path))
    assert checks
    wrong = [f"{c.test}: {c.asked}: got {c.got}" for c in checks if not c.holds]
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
        assert rule.labels["severity"].text in ("critical", "warning", "info", "none"), rule.name
        assert {"severity", "service", "team"} <= set(rule.labels), rule.name
        assert {"summary", "description", "runbook_url"} <= set(rule.annotations), rule.name


def test_every_runbook_that_an_alert_names_exists() -> None:
    for rule in _alerts():
        assert (ROOT / rule.annotations["runbook_url"].text).is_file(), rule.name


def test_every_shipped_rule_has_a_unit_test_that_sees_it_fire() -> None:
    told = "".join(path.read_text() for path in TESTS)
    assert [rule.name for rule in _alerts() if rule.name not in told] == []


def test_nothing_in_the_shipped_rules_deserves_a_warning() -> None:
    assert list(warnings(load_rules(()), Seconds(1.0))) == []


def test_only_the_trading_system_s_own_rules_are_critical() -> None:
    for rule in _alerts():
        if rule.labels["severity"].text == "critical":
            names = rule.expr.names or frozenset()
            assert not any(name.startswith("jules_agent_") for name in names), rule.name


def test_no_label_holds_a_value_that_changes_while_the_alert_lasts() -> None:
    for rule in _alerts():
        for name, template in rule.labels.items():
            assert template.render({}, 1.0, {}) == template.render({}, 2.0, {}), (rule.name, name)
