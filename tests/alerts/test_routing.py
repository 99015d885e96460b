"""Who is told, under which key, and with what."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from agent.alerts.routing import (
    Notification,
    Route,
    dedup_key,
    destinations,
    effective_severity,
    notify,
)
from agent.alerts.state import Alert
from agent.units import UnixTime

PAGER = Route("pagerduty", frozenset({"critical"}))
SLACK = Route("slack", frozenset({"critical", "warning", "info"}))
ROUTES = (PAGER, SLACK)


def test_critical_goes_to_both_and_a_warning_only_where_it_is_wanted() -> None:
    assert destinations({"severity": "critical"}, ROUTES) == ("pagerduty", "slack")
    assert destinations({"severity": "warning"}, ROUTES) == ("slack",)


def test_a_known_severity_that_nobody_wants_goes_nowhere() -> None:
    assert destinations({"severity": "info"}, (PAGER,)) == ()
    assert destinations({"severity": "none"}, ROUTES) == ()


def test_a_missing_or_misspelt_severity_is_a_warning_and_does_not_vanish() -> None:
    assert destinations({}, ROUTES) == ("slack",)
    assert destinations({"severity": "crticial"}, ROUTES) == ("slack",)
    assert effective_severity({"severity": "Critical "}, ROUTES) == "critical"


def test_a_severity_of_ones_own_works_when_a_destination_names_it() -> None:
    own = (Route("pagerduty", frozenset({"page"})), SLACK)
    assert destinations({"severity": "page"}, own) == ("pagerduty",)


LABELS = st.dictionaries(st.text(max_size=6), st.text(max_size=300), max_size=5)


@given(LABELS)
def test_a_dedup_key_fits_the_receiver_whatever_the_labels(labels: dict[str, str]) -> None:
    key = dedup_key(labels, "production", "pod-0", {"cluster": "a"})
    assert len(key) == 70
    assert key == dedup_key(dict(reversed(labels.items())), "production", "pod-0", {"cluster": "a"})


def test_two_pods_never_share_an_incident() -> None:
    labels = {"alertname": "A", "severity": "critical"}
    keys = {
        dedup_key(labels, environment, pod, external)
        for environment in ("staging", "production")
        for pod in ("trader-0", "trader-1")
        for external in ({}, {"cluster": "b"})
    }
    assert len(keys) == 8
    assert "jules-" in next(iter(keys))


def alert(**labels: str) -> Alert:
    named = {"alertname": "A", "severity": "critical", **labels}
    at = UnixTime(1000.0)
    return Alert("f", named, {"summary": "it burns"}, 2.5, "firing", at, UnixTime(1030.0))


def build(status: str = "firing", **labels: str) -> Notification:
    return notify(
        alert(**labels),
        status,  # type: ignore[arg-type]
        severity="critical",
        key="k",
        at=UnixTime(1100.0),
        context={"bundle": "v1"},
        external={"cluster": "a", "x": "outer"},
    )


def test_a_notification_survives_the_way_through_json() -> None:
    told = build("resolved")
    assert Notification.from_dict(json.loads(json.dumps(told.as_dict()))) == told
    assert told.resolved_at == 1100.0


def test_a_row_of_a_later_version_can_still_be_read() -> None:
    tree = {**build().as_dict(), "not_known_yet": 1}
    assert Notification.from_dict(tree) == build()


def test_external_labels_are_added_and_hide_nothing() -> None:
    assert build(x="inner").labels == {
        "alertname": "A",
        "severity": "critical",
        "cluster": "a",
        "x": "inner",
    }


def test_without_a_summary_the_headline_names_what_fires() -> None:
    bare = Notification.from_dict({**build(x="1").as_dict(), "annotations": {}})
    assert bare.summary == "A (cluster=a, x=1)"
