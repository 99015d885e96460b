"""Write dashboards/jules-agent.json: the agent's own metrics, for Grafana 10 and newer.

    python dashboards/make_dashboard.py            write the file
    python dashboards/make_dashboard.py --check    exit 1 when the file is out of date

What is shown is in panels.yaml; the layout is counted here, so that nobody moves boxes by hand.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "jules-agent.json"
PANELS = Path(__file__).parent / "panels.yaml"
UID = "jules-agent"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_PICK = 'instance=~"$instance"'
_COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Panel:
    """One box of panels.yaml."""

    title: str
    unit: str
    queries: list[dict[str, str]]
    about: str = ""
    kind: str = "timeseries"
    size: tuple[int, int] = (8, 7)
    red_from: float | None = None


def rows() -> dict[str, list[Panel]]:
    """The panels of each row."""
    tree = yaml.safe_load(PANELS.read_text(encoding="utf-8"))
    return {row: [Panel(**panel) for panel in panels] for row, panels in tree.items()}


def main(arguments: list[str]) -> int:
    """Write the file, or compare it with what stands there."""
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    if "--check" not in arguments:
        FILE.write_text(text, encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{FILE} is out of date: run make pages\n")
        return 1
    return 0


def dashboard() -> dict[str, Any]:
    """The whole document."""
    return {
        "uid": UID,
        "title": "jules-agent",
        "description": "Secrets, bundles and alerts beside each trading pod.",
        "tags": ["jules-agent", "trading"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": [_flips()]},
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    query = "label_values(jules_agent_build_info, instance)"
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {
            "name": "instance",
            "label": "Agent",
            "type": "query",
            "datasource": _SOURCE,
            "definition": query,
            "query": {"query": query, "refId": "instance"},
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".+",
            "sort": 1,
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _flips() -> dict[str, Any]:
    """A line through every panel where `current` was flipped."""
    expr = f"changes(jules_agent_bundle_live_since_timestamp_seconds{{{_PICK}}}[1m]) > 0"
    return {
        "name": "Flips",
        "datasource": _SOURCE,
        "enable": True,
        "expr": expr,
        "titleFormat": "flip on {{instance}}",
        "iconColor": "blue",
    }


def _panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for title, panels in rows().items():
        made.append(
            {
                "id": len(made) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1},
                "panels": [],
            }
        )
        y, x, tallest = y + 1, 0, 0
        for panel in panels:
            width, height = panel.size
            if x + width > _COLUMNS:
                y, x, tallest = y + tallest, 0, 0
            place = {"x": x, "y": y, "w": width, "h": height}
            made.append(_panel(panel, len(made) + 1, place))
            x, tallest = x + width, max(tallest, height)
        y += tallest
    return made


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + position),
            "datasource": _SOURCE,
            "expr": query["expr"].replace("%", _PICK),
            "legendFormat": query["legend"],
        }
        for position, query in enumerate(panel.queries)
    ]
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": _options(panel.kind),
        "targets": targets,
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        calculated = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": calculated, "colorMode": "value", "textMode": "value_and_name"}
    if kind == "state-timeline":
        return {"mergeValues": True, "showValue": "never", "rowHeight": 0.8}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
