"""Warnings about rules that load, and will not do what their author thinks. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from agent.alerts.lanes import OWN, SYNTHETIC
from agent.alerts.rules import AlertRule, Group, RecordRule, parse_duration
from agent.alerts.template import Template
from agent.units import Seconds

_WINDOW = re.compile(r"\[\s*([0-9a-z]+)\s*\]")
_INCREASE = re.compile(r"\b(?:increase|delta|changes|resets)\s*\([^()\[\]]*\[\s*([0-9a-z]+)\s*\]")
_VALUE = re.compile(r"\$value\b|\.Value\b")
_FEWEST = 4
KNOWN = frozenset({"critical", "warning", "info", "none"})
"""Severities that have a meaning without any configuration."""


def warnings(
    groups: Iterable[Group],
    interval: Seconds,
    severities: frozenset[str] = KNOWN,
    live: frozenset[str] | None = None,
) -> Iterator[str]:
    """What deserves a second look, each with file, line and rule.

    Args:
        interval: seconds between two scrapes.
        severities: those that a route knows.
        live: metric names that the target exposes now, if that was asked.
    """
    groups = list(groups)
    recorded = {r.name for g in groups for r in g.rules if isinstance(r, RecordRule)}
    for group in groups:
        seen: set[tuple[object, ...]] = set()
        for rule in group.rules:
            place = f"{rule.file}:{rule.line}: {rule.name}: "
            identity = (rule.name, *sorted((k, _raw(v)) for k, v in rule.labels.items()))
            if identity in seen:
                yield f"{place}another rule of this group has the same name and labels"
            seen.add(identity)
            for problem in _windows(rule, interval):
                yield place + problem
            if isinstance(rule, AlertRule):
                for problem in _alert(rule, severities):
                    yield place + problem
            if live is not None:
                known = live | recorded | SYNTHETIC | {"ALERTS", "ALERTS_FOR_STATE"}
                for name in sorted((rule.expr.names or frozenset()) - known):
                    if not name.startswith(OWN):
                        yield f"{place}the target does not expose {name} now"


def _windows(rule: AlertRule | RecordRule, interval: Seconds) -> Iterator[str]:
    for text in _WINDOW.findall(rule.expr.text):
        window = _seconds(text)
        if window is not None and window < _FEWEST * interval:
            yield (
                f"window [{text}] holds fewer than {_FEWEST} scrapes of {interval:g} s: one missed "
                "scrape leaves nothing to compare"
            )


def _alert(rule: AlertRule, severities: frozenset[str]) -> Iterator[str]:
    for name, template in rule.labels.items():
        if _VALUE.search(template.text):
            yield (
                f"label {name} holds the value: each new value is another alert; "
                "put it into an annotation"
            )
    for text in _INCREASE.findall(rule.expr.text):
        window = _seconds(text)
        if window is not None and rule.hold >= window > 0:
            yield (
                f"`for: {rule.hold:g}s` outlasts the window [{text}]: a single event is over "
                "before it fires; drop `for`, or use keep_firing_for"
            )
    severity = rule.labels.get("severity")
    if severity is None:
        yield "no severity label: it goes where a warning goes"
    elif "{{" not in severity.text and severity.text not in severities:
        yield f"severity {severity.text!r} is mapped to no route: it goes where a warning goes"


def _raw(value: Template | str) -> str:
    return value if isinstance(value, str) else value.text


def _seconds(text: str) -> Seconds | None:
    try:
        return parse_duration(text)
    except ValueError:
        return None
