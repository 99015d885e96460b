"""The linter's warnings, rule unit tests through the engine, and a group's limit and offset."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.alerts.errors import RuleError
from agent.alerts.judge import Judge
from agent.alerts.lint import warnings
from agent.alerts.rules import load_rules
from agent.alerts.ruletests import expand, run_tests
from agent.alerts.series import SeriesStore
from agent.cli import main
from agent.telemetry.metrics import NullRecorder
from agent.units import Seconds, UnixTime

GOOD = """
groups:
  - name: g
    rules:
      - {alert: A, expr: "increase(x_total[1m]) >= 1", labels: {severity: critical}}
"""


def write(folder: Path, text: str, name: str = "rules.yml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def rule(expr: str, extra: str = "", severity: str = "warning") -> str:
    labels = f"labels: {{severity: {severity}}}" if severity else ""
    return (
        f"groups:\n- name: g\n  rules:\n  - alert: A\n    expr: {expr}\n    {labels}\n    {extra}\n"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (rule("rate(x_total[3s]) > 0"), "fewer than 4 scrapes"),
        (rule("increase(x_total[1m]) >= 1", "for: 1m"), "outlasts the window"),
        (rule("x > 1", severity='"{{ $value }}"'), "holds the value"),
        (rule("x > 1", severity="Critical"), "mapped to no route"),
        (rule("x > 1", severity=""), "no severity"),
    ],
)
def test_what_would_not_do_what_its_author_thinks_is_warned_of(
    tmp_path: Path, text: str, told: str
) -> None:
    groups = load_rules([str(write(tmp_path, text))])
    (warning,) = warnings(groups, Seconds(1.0))
    assert told in warning
    assert "rules.yml:4: A" in warning


def test_a_sound_rule_is_warned_of_only_for_what_the_target_lacks(tmp_path: Path) -> None:
    groups = load_rules([str(write(tmp_path, GOOD))])
    assert list(warnings(groups, Seconds(1.0))) == []
    assert list(warnings(groups, Seconds(1.0), live=frozenset({"x_total"}))) == []
    (warning,) = warnings(groups, Seconds(1.0), live=frozenset({"y_total"}))
    assert "does not expose x_total" in warning


def test_the_notation_of_series_is_promtool_s() -> None:
    assert expand("0+10x2 _x2 5 stale -1-2x1 1e3") == [
        *(0.0, 10.0, 20.0, None, None, 5.0, "stale", -1.0, -3.0, 1000.0)
    ]
    with pytest.raises(ValueError, match="not a point"):
        expand("0 zero")


UNIT = """
rule_files: [rules.yml]
evaluation_interval: 1s
tests:
  - interval: 1s
    input_series:
      - {series: 'x_total{job="t"}', values: '0x9 1x50'}
    alert_rule_test:
      - {eval_time: 9s, alertname: A}
      - eval_time: 10s
        alertname: A
        exp_alerts: [{exp_labels: {severity: SEVERITY, job: t}}]
    promql_expr_test:
      - expr: x_total
        eval_time: 10s
        exp_samples: [{labels: 'x_total{job="t"}', value: 1}]
"""


@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_the_engine_and_promtool_come_to_the_same_verdict(tmp_path: Path, severity: str) -> None:
    write(tmp_path, GOOD)
    tests = write(tmp_path, UNIT.replace("SEVERITY", severity), "tests.yml")
    checks = list(run_tests(tests))
    assert len(checks) == 3
    ours = all(check.holds for check in checks)
    assert ours is (severity == "critical")
    if shutil.which("promtool"):
        done = subprocess.run(
            ["promtool", "test", "rules", str(tests)], capture_output=True, check=False
        )
        assert (done.returncode == 0) is ours


def test_a_file_that_is_no_rule_test_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"tests\.yml"):
        list(run_tests(write(tmp_path, "rule_files: 5\n", "tests.yml")))


def test_check_rules_ends_with_2_when_a_test_does_not_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(write(tmp_path, GOOD))
    good = str(write(tmp_path, UNIT.replace("SEVERITY", "critical"), "good.yml"))
    bad = str(write(tmp_path, UNIT.replace("SEVERITY", "warning"), "bad.yml"))
    assert main(["check", "rules", file, "--tests", good]) == 0
    assert "3 expectations hold, 0 do not" in capsys.readouterr().out
    assert main(["check", "rules", file, "--tests", good, bad, "--json"]) == 2
    tree = json.loads(capsys.readouterr().out)
    assert (tree["held"], len(tree["failed"])) == (5, 1)


async def test_a_limit_keeps_the_first_n_and_says_so(tmp_path: Path) -> None:
    text = rule("x > 0").replace("name: g", "name: g\n  limit: 2")
    store = SeriesStore(100, Seconds(60.0))
    judge = Judge(load_rules([str(write(tmp_path, text))]), store, NullRecorder(), {})
    store.ingest({"job": "t"}, 0.0, b'x{a="2"} 1\nx{a="3"} 1\nx{a="4"} 1\n')
    await judge.judge(UnixTime(0.0), Seconds(60.0), Seconds(1.0))
    assert sorted(alert.labels["a"] for alert in judge.alerts()) == ["2", "3"]
    (judged,) = judge.rules()
    assert "gives 3, the group's limit is 2" in str(judged.last_error)
    store.ingest({"job": "t"}, 1.0, b'x{a="1"} 1\nx{a="2"} 1\nx{a="3"} 1\n')
    await judge.judge(UnixTime(1.0), Seconds(60.0), Seconds(1.0))
    assert sorted(alert.labels["a"] for alert in judge.alerts()) == ["2", "3"]


async def test_a_rule_without_a_limit_keeps_a_thousand_alerts_and_says_how_many_there_were(
    tmp_path: Path,
) -> None:
    store = SeriesStore(5000, Seconds(60.0))
    judge = Judge(load_rules([str(write(tmp_path, rule("x > 0")))]), store, NullRecorder(), {})
    store.ingest({"job": "t"}, 0.0, "".join(f'x{{a="{n}"}} 1\n' for n in range(1200)).encode())
    await judge.judge(UnixTime(0.0), Seconds(60.0), Seconds(1.0))
    assert len(list(judge.alerts())) == 1000
    (judged,) = judge.rules()
    assert "gives 1200 alerts, of which the first 1000 are kept" in str(judged.last_error)


async def test_a_query_offset_looks_into_the_past_and_group_labels_are_inherited(
    tmp_path: Path,
) -> None:
    text = rule("x > 0").replace(
        "name: g", "name: g\n  query_offset: 5s\n  labels: {desk: fx, severity: info}"
    )
    store = SeriesStore(100, Seconds(60.0))
    judge = Judge(load_rules([str(write(tmp_path, text))]), store, NullRecorder(), {})
    for tick in range(8):
        store.ingest({"job": "t"}, float(tick), f"x {int(tick >= 2)}\n".encode())
        await judge.judge(UnixTime(float(tick)), Seconds(60.0), Seconds(1.0))
        assert bool(list(judge.alerts())) is (tick >= 7)
    (alert,) = judge.alerts()
    assert (alert.labels["desk"], alert.labels["severity"]) == ("fx", "warning")


async def test_missed_evaluations_are_counted_by_group(tmp_path: Path) -> None:
    store = SeriesStore(100, Seconds(60.0))
    judge = Judge(load_rules([str(write(tmp_path, GOOD))]), store, NullRecorder(), {})
    for at in (0.0, 1.0, 5.0, 6.0):
        await judge.judge(UnixTime(at), Seconds(60.0), Seconds(1.0))
    assert judge.groups[0].missed == 3


def test_several_documents_in_one_file_are_read_together(tmp_path: Path) -> None:
    other = GOOD.replace("name: g", "name: h")
    groups = load_rules([str(write(tmp_path, f"{GOOD}---\n{other}---\n"))])
    assert [group.name for group in groups] == ["g", "h"]
