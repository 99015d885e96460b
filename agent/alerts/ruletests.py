"""promtool's unit tests of rules (`promtool test rules`), judged by the agent's own engine.

A file names rule files, series in promtool's notation, and what is expected at given times: alerts
(`alert_rule_test`) and results (`promql_expr_test`). The rules run through the same judge that
pages, tick by tick of `evaluation_interval`, on a store that the series were put into.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.alerts import promql
from agent.alerts.errors import AlertsError, ExpositionError, RuleError
from agent.alerts.exposition import parse_float, parse_line
from agent.alerts.judge import Judge
from agent.alerts.labels import Labels
from agent.alerts.rules import AlertRule, Group, load_rules, parse_duration
from agent.alerts.series import SeriesStore
from agent.telemetry.metrics import NullRecorder
from agent.units import Seconds, UnixTime

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?(?i:inf|nan)"
_POINT = re.compile(rf"({_NUMBER})(?:([-+])({_NUMBER}))?(?:x([0-9]+))?")
_GAP = re.compile(r"(_|stale)(?:x([0-9]+))?")
_MOST_TICKS = 200_000
_FOR_EVER = Seconds(1e9)
_MOST_SERIES = 100_000


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation: where it stands, whether it holds, and what came instead."""

    test: str
    asked: str
    holds: bool
    got: str = ""


def run_tests(path: Path) -> Iterator[Check]:
    """Every expectation of a file, judged.

    Raises:
        RuleError: the file, or a rule file that it names, cannot be used.
    """
    try:
        tree = yaml.safe_load(path.read_text())
        files = [str(path.parent / file) for file in tree["rule_files"]]
        every = parse_duration(str(tree.get("evaluation_interval", "1m")))
        tests = tree["tests"]
        groups = load_rules(files)
        for number, test in enumerate(tests, 1):
            title = str(test.get("name") or f"test {number}")
            yield from _Test(title, test, groups, every).run()
    except (OSError, KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise RuleError(
            f"{path}: not a file of rule tests: {error!r}", "see `promtool test rules`"
        ) from None


def expand(notation: str) -> list[float | str | None]:
    """The points of `0+10x3 _x2 5 stale`: numbers, None where there is no sample, or `stale`.

    Raises:
        ValueError: it is not in that notation.
    """
    points: list[float | str | None] = []
    for word in notation.split():
        gap = _GAP.fullmatch(word)
        if gap is not None:
            points += [None if gap[1] == "_" else "stale"] * int(gap[2] or 1)
            continue
        found = _POINT.fullmatch(word)
        if found is None:
            raise ValueError(f"{word!r} is not a point of a series")
        first, step = parse_float(found[1]), parse_float(found[3]) if found[3] else 0.0
        step = -step if found[2] == "-" else step
        points += [first + step * count for count in range(int(found[4] or 0) + 1)]
    return points


class _Test:
    def __init__(
        self, title: str, test: Mapping[str, Any], groups: list[Group], every: Seconds
    ) -> None:
        self._title = title
        self._every = every
        self._store = SeriesStore(_MOST_SERIES, _FOR_EVER)
        external = {str(k): str(v) for k, v in (test.get("external_labels") or {}).items()}
        self._judge = Judge(groups, self._store, NullRecorder(), external)
        names = {r.name for g in groups for r in g.rules if isinstance(r, AlertRule)}
        self._alerts = names
        self._checks: list[tuple[Seconds, str, Mapping[str, Any]]] = []
        for kind in ("alert_rule_test", "promql_expr_test"):
            for check in test.get(kind) or ():
                self._checks.append((parse_duration(str(check["eval_time"])), kind, check))
        self._checks.sort(key=lambda check: check[0])
        step = parse_duration(str(test["interval"])) if "interval" in test else every
        for series in test.get("input_series") or ():
            labels = _labels(str(series["series"]))
            for index, point in enumerate(expand(str(series["values"]))):
                if point is not None:
                    value = None if isinstance(point, str) else point
                    self._store.append(labels, index * step, value)

    def run(self) -> Iterator[Check]:
        last = self._checks[-1][0] if self._checks else 0.0
        if last / self._every > _MOST_TICKS:
            raise ValueError("eval_time is too many evaluation intervals away")
        tick = 0
        with asyncio.Runner() as runner:
            for at, kind, check in self._checks:
                while tick * self._every <= at:
                    now = UnixTime(tick * self._every)
                    runner.run(self._judge.judge(now, _FOR_EVER, self._every))
                    tick += 1
                alerts = kind == "alert_rule_test"
                yield self._alerts_at(at, check) if alerts else self._result_at(at, check)

    def _alerts_at(self, at: Seconds, check: Mapping[str, Any]) -> Check:
        name = str(check["alertname"])
        if name not in self._alerts:
            raise ValueError(f"no alert is called {name}")
        want = [
            (_texts(alert.get("exp_labels")) | {"alertname": name}, _texts(alert, "annotations"))
            for alert in check.get("exp_alerts") or ()
        ]
        got = [
            (dict(alert.labels), dict(alert.annotations))
            for alert in self._judge.alerts()
            if alert.name == name and alert.state == "firing"
        ]
        holds = len(got) == len(want) and all(alert in got for alert in want)
        return Check(self._title, f"{name} at {at:g} s", holds, "" if holds else f"firing: {got}")

    def _result_at(self, at: Seconds, check: Mapping[str, Any]) -> Check:
        text = str(check["expr"])
        try:
            found = promql.compile(text).instant(self._store, at)
        except AlertsError as error:
            return Check(self._title, f"{text} at {at:g} s", False, str(error))
        got = {Labels(sample.labels): sample.value for sample in found}
        want = {
            Labels(_labels(str(sample["labels"]))): float(sample["value"])
            for sample in check.get("exp_samples") or ()
        }
        holds = got.keys() == want.keys() and all(_alike(got[key], want[key]) for key in want)
        shown = "" if holds else ", ".join(f"{labels} {value}" for labels, value in got.items())
        return Check(
            self._title, f"{text} at {at:g} s", holds, shown or ("" if holds else "nothing")
        )


def _texts(tree: Mapping[str, Any] | None, key: str = "") -> dict[str, str]:
    if key:
        tree = (tree or {}).get(f"exp_{key}")
    return {str(name): str(value) for name, value in (tree or {}).items()}


def _labels(text: str) -> dict[str, str]:
    bare = text.strip()
    named = f"unnamed{bare}" if bare.startswith("{") else bare
    try:
        line = parse_line(f"{named} 0", 1, openmetrics=False)
    except ExpositionError as error:
        raise ValueError(f"series {text!r}: {error}") from None
    if line is None:
        raise ValueError(f"{text!r} is not a series")
    labels = dict(line.labels)
    if bare.startswith("{"):
        del labels["__name__"]
    return labels


def _alike(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=1e-9)
