"""Rules and alerts in Prometheus's format: its fields, its choices, its numbers."""

from __future__ import annotations

from typing import Any

import pytest

from agent.web import prometheus

ALERT: dict[str, Any] = {
    "rule": "f\ng\nSlow\n1",
    "name": "Slow",
    "state": "firing",
    "labels": {"alertname": "Slow", "severity": "critical"},
    "annotations": {"summary": "slow"},
    "value": 25.5,
    "active_at": 1_750_000_000.25,
    "fired_at": 1_750_000_030.0,
    "keeping_since": None,
}
MODEL: dict[str, Any] = {
    "alerts": [ALERT],
    "groups": [
        {
            "name": "g",
            "file": "f",
            "interval": 1.0,
            "limit": 0,
            "missed": 0,
            "evaluated_at": 1_750_000_031.0,
            "seconds": 0.002,
            "rules": [
                {
                    "id": "f\ng\nSlow\n1",
                    "name": "Slow",
                    "type": "alerting",
                    "state": "firing",
                    "query": "x > 25",
                    "labels": {"severity": "critical"},
                    "annotations": {"summary": "slow"},
                    "for": 30.0,
                    "keep_firing_for": 0.0,
                    "last_error": None,
                    "evaluated_at": 1_750_000_031.0,
                    "seconds": 0.001,
                },
                {
                    "id": "f\ng\nr\n1",
                    "name": "r",
                    "type": "recording",
                    "state": "recording",
                    "query": "x * 2",
                    "labels": {},
                    "last_error": "two results have the same labels",
                    "evaluated_at": 1_750_000_031.0,
                    "seconds": 0.001,
                },
            ],
        },
        {
            "name": "not yet judged",
            "file": "f",
            "interval": 15.0,
            "limit": 5,
            "missed": 0,
            "evaluated_at": None,
            "seconds": 0.0,
            "rules": [],
        },
    ],
}


def groups(**query: list[str]) -> list[dict[str, Any]]:
    named = {name.replace("__", "[]"): values for name, values in query.items()}
    status, told = prometheus.rules(MODEL, named)
    assert (status, told["status"]) == (200, "success")
    return list(told["data"]["groups"])


def test_a_rule_has_the_fields_that_prometheus_gives_it() -> None:
    first, second = groups()
    alerting, recording = first["rules"]
    assert alerting == {
        "name": "Slow",
        "query": "x > 25",
        "labels": {"severity": "critical"},
        "health": "ok",
        "evaluationTime": 0.001,
        "lastEvaluation": "2025-06-15T15:07:11.000Z",
        "type": "alerting",
        "state": "firing",
        "duration": 30.0,
        "keepFiringFor": 0.0,
        "annotations": {"summary": "slow"},
        "alerts": [
            {
                "labels": {"alertname": "Slow", "severity": "critical"},
                "annotations": {"summary": "slow"},
                "state": "firing",
                "activeAt": "2025-06-15T15:06:40.250Z",
                "value": "2.55e+01",
            }
        ],
    }
    assert recording["health"] == "err"
    assert recording["lastError"] == "two results have the same labels"
    assert "state" not in recording
    assert second["lastEvaluation"] == "0001-01-01T00:00:00Z"


def test_rules_are_chosen_as_prometheus_chooses_them() -> None:
    assert [r["name"] for g in groups(type=["alert"]) for r in g["rules"]] == ["Slow"]
    assert [r["name"] for g in groups(type=["record"]) for r in g["rules"]] == ["r"]
    assert [r["name"] for g in groups(rule_name__=["r"]) for r in g["rules"]] == ["r"]
    assert [g["name"] for g in groups(rule_group__=["g"])] == ["g"]
    assert groups(file__=["other"]) == []
    assert groups(exclude_alerts=["true"])[0]["rules"][0]["alerts"] == []
    status, told = prometheus.rules(MODEL, {"type": ["sorcery"]})
    assert (status, told["errorType"]) == (400, "bad_data")


def test_alerts_are_a_list_of_them_all() -> None:
    told = prometheus.alerts({"alerts": [{**ALERT, "keeping_since": 1_750_000_060.0}]})
    (alert,) = told["data"]["alerts"]
    assert alert["keepFiringSince"] == "2025-06-15T15:07:40.000Z"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1e+00"),
        (0.0, "0e+00"),
        (-100.0, "-1e+02"),
        (3.1e-5, "3.1e-05"),
        (0.1 + 0.2, "3.0000000000000004e-01"),
        (1.7e308, "1.7e+308"),
        (None, "NaN"),
    ],
)
def test_a_value_is_written_as_go_writes_it(value: float | None, text: str) -> None:
    assert prometheus.exponent(value) == text
