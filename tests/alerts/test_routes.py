"""An alert goes where the tree says, each destination once, in the group that it says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alerts.matchers import MatcherError, match, parse_all
from agent.alerts.routes import Routes
from agent.alerts.routing import Route
from agent.configrouting import Route as Node
from agent.errors import UsageError
from agent.units import Seconds

SEVERITIES = (
    Route("pagerduty", frozenset({"critical"})),
    Route("slack", frozenset({"critical", "warning", "info"})),
    Route("hook", frozenset({"critical"})),
)
REPEAT = Seconds(3600.0)


def tree(environment: str = "production", **root: Any) -> Routes:
    return Routes(Node.model_validate(root), SEVERITIES, environment, REPEAT)


def names(routes: Routes, **labels: str) -> list[str]:
    return [way.destination for way in routes.ways(labels)]


def test_without_a_tree_the_severities_decide_and_nothing_is_grouped() -> None:
    routes = Routes(None, SEVERITIES, "production", REPEAT)
    assert names(routes, severity="warning") == ["slack"]
    assert names(routes, severity="critical") == ["pagerduty", "slack", "hook"]
    assert {way.group for way in routes.ways({"severity": "critical"})} == {None}


def test_the_first_node_that_matches_takes_the_alert_and_a_deeper_one_before_its_parent() -> None:
    routes = tree(
        receivers=["slack"],
        routes=[
            {
                "matchers": ['team="risk"'],
                "receivers": ["hook"],
                "routes": [{"matchers": ['severity="critical"'], "receivers": ["pagerduty"]}],
            },
            {"matchers": ['severity="critical"'], "receivers": ["slack", "pagerduty"]},
        ],
    )
    assert names(routes, team="risk", severity="critical") == ["pagerduty"]
    assert names(routes, team="risk", severity="info") == ["hook"]
    assert names(routes, team="fx", severity="critical") == ["slack", "pagerduty"]
    assert names(routes, team="fx", severity="info") == ["slack"]


def test_continue_looks_further_and_each_destination_is_told_once() -> None:
    routes = tree(
        receivers=["slack"],
        routes=[
            {"matchers": ['a="1"'], "receivers": ["hook"], "continue": True},
            {"matchers": ['b="1"'], "receivers": ["pagerduty", "hook"]},
        ],
    )
    assert names(routes, a="1", b="1") == ["hook", "pagerduty"]
    assert names(routes, a="1") == ["hook"]


def test_a_node_for_another_environment_is_not_there() -> None:
    node = {"environments": ["production"], "receivers": ["pagerduty"]}
    assert names(tree(receivers=["slack"], routes=[node])) == ["pagerduty"]
    assert names(tree("staging", receivers=["slack"], routes=[node])) == ["slack"]


def test_what_a_node_does_not_say_is_its_parents() -> None:
    routes = tree(
        receivers=["slack"],
        group_by=["alertname"],
        group_wait="10s",
        repeat_interval="2h",
        routes=[{"matchers": ['a="1"'], "group_interval": "1m"}],
    )
    (way,) = routes.ways({"alertname": "X", "a": "1"})
    assert (way.destination, way.repeat) == ("slack", 7200.0)
    assert way.group is not None
    assert (way.group.wait, way.group.interval) == (10.0, 60.0)
    (other,) = routes.ways({"alertname": "Y", "a": "1"})
    assert other.group is not None
    assert other.group.key != way.group.key
    assert routes.shortest_repeat == 7200.0


def test_all_labels_as_group_is_no_group() -> None:
    (way,) = tree(receivers=["slack"], group_by=["..."]).ways({"alertname": "X"})
    assert way.group is None


def test_a_watchdog_pages_nobody_unless_a_node_asks_for_it() -> None:
    plain = tree(receivers=["slack"])
    assert names(plain, severity="none") == []
    asked = tree(
        receivers=["slack"], routes=[{"matchers": ["alertname=Watchdog"], "receivers": ["hook"]}]
    )
    assert names(asked, severity="none", alertname="Watchdog") == ["hook"]


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ({"receivers": ["nobody"]}, "nobody"),
        ({}, "no receivers"),
        ({"receivers": ["slack"], "matchers": ['a="b"']}, "root"),
        ({"receivers": ["slack"], "routes": [{"receivers": ["x"]}]}, "routes[0]"),
    ],
)
def test_a_tree_that_would_lose_alerts_is_refused_with_its_place(
    root: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        tree(**root)
    assert said in str(caught.value)


def test_a_matcher_that_is_none_is_refused() -> None:
    with pytest.raises(MatcherError):
        tree(receivers=["slack"], routes=[{"matchers": ["nonsense"]}])


VALUES = st.sampled_from(("1", "2"))
NODE: st.SearchStrategy[dict[str, Any]] = st.deferred(
    lambda: st.fixed_dictionaries(
        {
            "matchers": st.lists(
                st.tuples(st.sampled_from("ab"), VALUES).map(lambda p: f'{p[0]}="{p[1]}"'),
                min_size=1,
                max_size=2,
            ),
            "receivers": st.one_of(
                st.none(), st.lists(st.sampled_from(("slack", "pagerduty", "hook")), max_size=2)
            ),
            "continue": st.booleans(),
            "routes": st.lists(NODE, max_size=2),
        }
    )
)


def naive(node: dict[str, Any], inherited: list[str], labels: dict[str, str]) -> list[list[str]]:
    """Alertmanager's Route.Match, written again."""
    own = inherited if node.get("receivers") is None else node["receivers"]
    if not match(parse_all(node.get("matchers", [])), labels):
        return []
    found: list[list[str]] = []
    for child in node.get("routes", []):
        below = naive(child, own, labels)
        found += below
        if below and not child["continue"]:
            break
    return found or [own]


@given(st.lists(NODE, max_size=3), st.dictionaries(st.sampled_from("ab"), VALUES))
def test_the_tree_is_walked_as_alertmanager_walks_it(
    nodes: list[dict[str, Any]], labels: dict[str, str]
) -> None:
    root: dict[str, Any] = {"receivers": ["slack"], "routes": nodes}
    expected: list[str] = []
    for receivers in naive(root, [], labels):
        expected += [name for name in receivers if name not in expected]
    # the same receiver twice in one node is told once
    assert names(tree(**root), **labels) == list(dict.fromkeys(expected))
