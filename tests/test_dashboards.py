"""The dashboard asks for metrics that the agent exposes, by labels that they have."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import promql_parser
import pytest

from agent.telemetry.exporter import PrometheusRecorder
from agent.telemetry.metrics import METRICS, PREFIX, Spec

FOLDER = Path(__file__).parents[1] / "dashboards"
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
ADDED = {"instance", "le"}
"""Labels that a scrape adds, and a histogram's."""


def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dashboard", FOLDER / "make_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DASHBOARD: dict[str, Any] = json.loads((FOLDER / "jules-agent.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [
    note["expr"] for note in DASHBOARD["annotations"]["list"]
]


def _plain(expr: str) -> str:
    """What Grafana sends, its variables filled in."""
    return expr.replace("$__rate_interval", "1m").replace("$instance", ".+")


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        below = getattr(node, name, None)
        if below is not None:
            yield from _nodes(below)
    for below in getattr(node, "args", None) or ():
        yield from _nodes(below)


def _selectors(expr: str) -> list[Any]:
    tree = promql_parser.parse(_plain(expr))
    return [node for node in _nodes(tree) if isinstance(node, promql_parser.VectorSelector)]


def _spec(name: str) -> Spec:
    """The declaration behind an exposed name.

    Raises:
        KeyError: no metric of the agent is exposed under it.
    """
    short = name.removeprefix(PREFIX)
    base = re.sub(r"_(bucket|sum|count)$", "", short)
    if base in METRICS and METRICS[base].kind == "histogram":
        if base == short:
            raise KeyError(name)
        return METRICS[base]
    return METRICS[short]


def test_the_dashboard_is_what_its_panels_file_makes() -> None:
    assert _maker().dashboard() == DASHBOARD, "run make pages"


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_an_expression_asks_for_metrics_that_are_exposed(expr: str) -> None:
    selectors = _selectors(expr)
    assert selectors
    for selector in selectors:
        if selector.name not in PROCESS:
            assert selector.name.startswith(PREFIX)
            _spec(selector.name)


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_an_expression_uses_only_labels_that_its_metric_has(expr: str) -> None:
    (name, *_) = [selector.name for selector in _selectors(expr)]
    has = ADDED | set(() if name in PROCESS else _spec(name).labels)
    for selector in _selectors(expr):
        assert {matcher.name for matcher in selector.matchers.matchers} <= has
    for labels in re.findall(r"\bby \(([^)]*)\)", expr):
        assert {label.strip() for label in labels.split(",")} <= has


def test_no_metric_has_a_label_that_prometheus_sets_itself() -> None:
    """It would come out as `exported_job`, and a query by it would merge what it should split."""
    taken = {name for name, spec in METRICS.items() if {"job", "instance"} & set(spec.labels)}
    assert taken == set()


def test_counters_are_never_shown_raw() -> None:
    for expr in EXPRESSIONS:
        for selector in _selectors(expr):
            if selector.name.endswith(("_total", "_bucket")):
                assert re.search(r"\b(rate|increase)\(" + selector.name, expr), expr


def test_every_metric_of_the_agent_is_on_the_dashboard() -> None:
    shown = {
        selector.name.removeprefix(PREFIX) for expr in EXPRESSIONS for selector in _selectors(expr)
    }
    shown |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert [name for name in METRICS if name not in shown] == []


def test_the_names_are_those_of_a_real_exposition() -> None:
    text = PrometheusRecorder().text().decode()
    families = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    for expr in EXPRESSIONS:
        for selector in _selectors(expr):
            base = re.sub(r"_(bucket|sum|count)$", "", selector.name)
            assert families & {selector.name, base}, selector.name


def test_every_panel_has_a_title_a_unit_and_a_legend() -> None:
    for panel in PANELS:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
    assert DASHBOARD["uid"] == "jules-agent"


def test_panels_have_their_own_number_and_place() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
