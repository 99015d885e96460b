"""The metrics table: what is declared is what can be recorded, and nothing else."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.telemetry.exporter import PrometheusRecorder
from agent.telemetry.metrics import METRICS, PREFIX, NullRecorder, full_names


def recorded() -> PrometheusRecorder:
    """A recorder in which every metric has been used once."""
    recorder = PrometheusRecorder()
    for name, spec in METRICS.items():
        labels = dict.fromkeys(spec.labels, "x")
        if spec.kind == "counter":
            recorder.inc(name, 2.0, **labels)
        elif spec.kind == "gauge":
            recorder.set(name, 3.0, **labels)
        else:
            recorder.observe(name, 0.02, **labels)
    return recorder


def test_every_declared_metric_is_exposed_under_its_full_name() -> None:
    body = recorded().text().decode()
    families = {family.name for family in text_string_to_metric_families(body)}
    for name in full_names():
        assert name.removesuffix("_total") in families, name


def test_names_follow_the_conventions() -> None:
    for name, spec in METRICS.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert spec.help.endswith("."), name
        assert (spec.kind == "counter") == name.endswith("_total"), name
        if spec.kind == "histogram":
            assert name.endswith("_seconds"), name


@pytest.mark.parametrize("recorder", [PrometheusRecorder(), NullRecorder()])
def test_an_undeclared_name_label_or_kind_is_an_error_at_once(
    recorder: PrometheusRecorder | NullRecorder,
) -> None:
    with pytest.raises(KeyError):
        recorder.inc("made_up_total")
    with pytest.raises(ValueError, match="labels"):
        recorder.inc("scrapes_total", target="x")
    with pytest.raises(ValueError, match="is a counter"):
        recorder.set("scrapes_total", 1.0, target="x", outcome="ok")


def test_a_child_that_is_forgotten_is_no_longer_exposed() -> None:
    recorder = recorded()
    recorder.set("bundle_info", 1.0, version="v9")
    assert b'version="v9"' in recorder.text()
    recorder.forget("bundle_info", version="v9")
    recorder.forget("bundle_info", version="never-there")
    assert b'version="v9"' not in recorder.text()


def test_openmetrics_is_given_when_asked_for() -> None:
    kind, body = recorded().expose("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    kind, _ = recorded().expose("")
    assert kind.startswith("text/plain")
    assert PREFIX.encode() in body
