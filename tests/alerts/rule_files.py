"""promtool's rule tests (`promtool test rules`), played through the agent's own evaluator.

Alert states follow Prometheus's rules/alerting.go in the few lines that these files need: `for`,
`keep_firing_for`, and the ALERTS series that the tests ask about.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from agent.alerts import promql
from agent.alerts.labels import Labels
from agent.alerts.rules import AlertRule, load_rules, parse_duration
from agent.alerts.series import SeriesStore
from agent.units import Seconds
from tests.alerts.conformance.language import alike, parse_series


def play(path: Path) -> Iterator[tuple[str, bool, str]]:
    """For each expectation of a file: what was asked, whether it holds, and what came instead."""
    tree = yaml.safe_load(path.read_text())
    rules = load_rules([str(path.parent / file) for file in tree["rule_files"]])
    interval = parse_duration(tree["evaluation_interval"])
    for test in tree["tests"]:
        yield from _Test(test, [r for g in rules for r in g.rules], interval).run()


class _Test:
    def __init__(self, test: dict[str, Any], rules: list[Any], interval: Seconds) -> None:
        timed = [(parse_duration(check["eval_time"]), check) for check in _checks(test)]
        self._checks = sorted(timed, key=lambda pair: pair[0])
        self._rules = [rule for rule in rules if isinstance(rule, AlertRule)]
        self._interval = interval
        self._store = SeriesStore(10_000, Seconds(1e9))
        self._active: dict[tuple[str, Labels], list[float | None]] = {}
        for series in test["input_series"]:
            labels, points = parse_series(f"{series['series']} {series['values']}")
            step = parse_duration(test["interval"])
            for index, point in enumerate(points):
                if point is not None:
                    value = None if point == "stale" else float(point)
                    self._store.append(labels.map, index * step, value)

    def run(self) -> Iterator[tuple[str, bool, str]]:
        tick = 0
        for at, check in self._checks:
            while tick * self._interval <= at:
                self._evaluate(tick * self._interval)
                tick += 1
            got = promql.compile(check["expr"]).instant(self._store, at)
            want = [
                (parse_series(f"{s['labels']} {s['value']}")) for s in check.get("exp_samples", [])
            ]
            told = {Labels(sample.labels): sample.value for sample in got}
            holds = len(told) == len(want) and all(
                labels in told and alike(told[labels], float(points[0] or 0.0))
                for labels, points in want
            )
            yield f"{check['expr']} at {at} s", holds, str(got)

    def _evaluate(self, at: float) -> None:
        told = []
        for rule in self._rules:
            now = set()
            for sample in rule.expr.instant(self._store, at):
                labels = {k: v for k, v in sample.labels.items() if k != "__name__"}
                for name, template in rule.labels.items():
                    labels[name] = template.render(sample.labels, sample.value, {})
                now.add(Labels({**labels, "alertname": rule.name}))
            for key in [k for k in self._active if k[0] == rule.name]:
                since, kept = self._active[key]
                firing = since is not None and at - since >= rule.hold
                if key[1] in now:
                    self._active[key][1] = None
                    continue
                kept = at if kept is None else kept
                self._active[key][1] = kept
                if not firing or at - kept >= rule.keep_firing_for:
                    del self._active[key]
            for labels_now in now:
                self._active.setdefault((rule.name, labels_now), [at, None])
            for (name, labels_active), (since, _) in self._active.items():
                if name == rule.name:
                    assert since is not None
                    state = "firing" if at - since >= rule.hold else "pending"
                    series = {**labels_active.map, "__name__": "ALERTS", "alertstate": state}
                    told.append((series, 1.0))
        self._store.write("ALERTS", at, told)


def _checks(test: dict[str, Any]) -> list[dict[str, Any]]:
    found = test["promql_expr_test"]
    assert isinstance(found, list)
    return found
