"""Rule files: every problem told at once, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.alerts.errors import RuleError
from agent.alerts.rules import AlertRule, Group, RecordRule, load_rules, parse_duration
from agent.alerts.template import Template, TemplateError

GOOD = """
groups:
  - name: g
    interval: 15s
    labels: {team: trading}
    rules:
      - record: job:x:sum
        expr: sum by (job) (x)
        labels: {a: b}
      - alert: Up
        expr: up == 0
        for: 1m30s
        keep_firing_for: 5m
        labels: {severity: critical}
        annotations: {summary: "{{ $labels.job }} is {{ $value }}"}
"""


def _write(folder: Path, text: str, name: str = "r.yml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def _load(folder: Path, text: str) -> list[Group]:
    return load_rules([_write(folder, text)])


def test_a_good_file_is_read_whole(tmp_path: Path) -> None:
    (group,) = _load(tmp_path, GOOD)
    record, alert = group.rules
    assert (group.name, group.interval) == ("g", 15.0)
    assert isinstance(record, RecordRule)
    assert isinstance(alert, AlertRule)
    assert record.labels == {"team": "trading", "a": "b"}
    assert (alert.hold, alert.keep_firing_for, alert.line) == (90.0, 300.0, 10)
    assert alert.labels["team"].text == "trading"
    assert alert.annotations["summary"].render({"job": "j"}, 0.5, {}) == "j is 0.5"


def test_all_problems_are_told_with_file_line_group_and_rule(tmp_path: Path) -> None:
    bad = """groups:
  - name: g
    rules:
      - alert: A
        expr: limitk(1, x)
        for: 5x
        labels: {severity: critical, severity: warning, "1a": b}
      - alert: B
        expr: up
        annotations:
          summary: "{{ nope }}"
      - record: "x y"
        expr: up
        for: 1m
  - name: g
    lmit: 3
"""
    with pytest.raises(RuleError) as caught:
        load_rules([_write(tmp_path, bad), str(tmp_path / "none.yml")])
    told = str(caught.value)
    for part in (
        "r.yml:5: group g: A: expr (at 1:1): limitk",
        "r.yml:6: group g: A: not a valid duration: '5x'",
        "r.yml:7: group g: A: 'severity' is given twice",
        "r.yml:7: group g: A: '1a' is not a name for a label",
        "r.yml:11: group g: B: annotation summary: function nope is not supported",
        "group g: x y: 'x y' is not a metric name",
        "group g: x y: 'for' does not belong in a recording rule",
        "group name 'g' is repeated",
        "'lmit' is not known in a group",
        "none.yml: no such file",
    ):
        assert part in told, part


@pytest.mark.parametrize(
    "text",
    [
        "groups: [",
        "groups: 3",
        "alerting: {}",
        "groups:\n- name: ''\n",
        "groups:\n- name: a\n  limit: many\n",
        "groups:\n- name: a\n  rules: [{alert: A}]\n",
        "groups:\n- name: a\n  rules: [{alert: A, record: b, expr: c}]\n",
        '"""\ndocstring\n"""\ngroups: []\n',
        "groups:\n- name: a\n  rules: [{alert: A, expr: c, labels: {__name__: x}}]\n",
        "groups: [{name: a}]\n---\ngroups: [{name: a}]\n",
    ],
)
def test_a_file_that_prometheus_or_we_could_not_use_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RuleError):
        _load(tmp_path, text)


def test_patterns_are_read_in_order_and_each_file_once(tmp_path: Path) -> None:
    for name in ("b", "a"):
        _write(tmp_path, f"groups: [{{name: {name}}}]", f"{name}.yml")
    groups = load_rules([str(tmp_path / "b.yml"), str(tmp_path / "*.yml")])
    assert [group.name for group in groups] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("30s", 30), ("1h30m", 5400), ("1d", 86400), ("500ms", 0.5)]
)
def test_durations_are_prometheus_own(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "1.5h", "30s1m", "-5m", "5 m"])
def test_other_durations_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ nope }}", "{{ $nope }}", "{{ .Nope }}", "{{ if true }}", "{{ end }}", "{{ else }}",
        "{{", "{{}}", '{{ define "x" }}{{ end }}', "{{ $value | nope }}", "{{ 1 2 }}",
        "{{ (1 }}", '{{ "a }}', "{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", "{{ break }}",
        "{{ $value ; }}", '{{ $a, $b := query "x" }}',
    ],
)  # fmt: skip
def test_a_template_that_is_not_understood_is_refused_when_it_is_loaded(text: str) -> None:
    with pytest.raises(TemplateError):
        Template.compile(text)


def test_what_goes_wrong_in_rendering_is_told_in_the_text() -> None:
    for text in ("{{ gt $value 1 }}", '{{ query "x" | first }}', "{{ humanize $labels }}"):
        assert "<error expanding template: " in Template.compile(text).render({}, 1.0, {})


def test_yaml_s_anchors_and_merge_keys_are_read_as_prometheus_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    path.write_text(
        "groups:\n- name: a\n  rules:\n"
        "  - &base {alert: A, expr: c > 1, for: 30s, labels: {severity: info}}\n"
        "  - {<<: *base, alert: B, expr: d > 1}\n"
    )
    _, second = load_rules([str(path)])[0].rules
    assert isinstance(second, AlertRule)
    assert (second.name, second.expr.text, second.hold) == ("B", "d > 1", 30.0)
    assert second.labels["severity"].text == "info"
