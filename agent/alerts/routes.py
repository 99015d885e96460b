"""The routing tree: which destinations an alert goes to, in which group, how often. Pure.

An alert enters at the root and goes down as in Alertmanager: of the nodes below one, the first that
matches is gone into, and those after it only when it says `continue`; a node none of whose nodes
match is where the alert stays. What a node does not say is its parent's. An alert may stay at
several nodes; a destination that more than one of them names is told once, the way the first says.

Different from Alertmanager: an alert of severity `none` (a watchdog's) that only the root catches
is told to nobody. Without a tree, the destinations' own severities decide and nothing is grouped.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from agent.alerts.grouping import Group
from agent.alerts.matchers import Matchers, match, parse_all
from agent.alerts.routing import Route, destinations
from agent.configrouting import Route as Node
from agent.errors import UsageError
from agent.units import Seconds

T = TypeVar("T")

GROUP_WAIT = Seconds(30.0)
GROUP_INTERVAL = Seconds(300.0)
_ALL_LABELS = ("...",)


@dataclass(frozen=True, slots=True)
class Way:
    """One destination of one alert; `group` is None where each alert is told by itself."""

    destination: str
    group: Group | None
    repeat: Seconds


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A node with nothing left to inherit."""

    path: str
    matchers: Matchers
    receivers: tuple[str, ...]
    continues: bool
    here: bool
    group_by: tuple[str, ...]
    group_wait: Seconds
    group_interval: Seconds
    repeat: Seconds
    below: tuple[_Resolved, ...]


class Routes:
    """Where every alert goes, by one configuration."""

    def __init__(
        self,
        root: Node | None,
        severities: Iterable[Route],
        environment: str,
        repeat: Seconds,
    ) -> None:
        """
        Raises:
            UsageError: a matcher is none, a receiver is no destination, or the root is not one.
        """
        self._severities = tuple(severities)
        self._environment = environment
        self._repeat = repeat
        self._root: _Resolved | None = None
        if root is not None:
            if root.matchers or root.environments or root.continue_:
                raise UsageError(
                    "alerts.route: the root matches every alert",
                    "put matchers, environments and continue into the nodes below it",
                )
            if root.receivers is None:
                raise UsageError(
                    "alerts.route names no receivers", "name destinations, or [] for nobody"
                )
            known = {route.name for route in self._severities}
            above = _Resolved(
                "route", (), (), False, True, (), GROUP_WAIT, GROUP_INTERVAL, repeat, ()
            )
            self._root = self._resolve(root, above, "route", known)

    def _resolve(
        self, node: Node, above: _Resolved, path: str, known: Collection[str]
    ) -> _Resolved:
        receivers = above.receivers if node.receivers is None else node.receivers
        for name in receivers:
            if name not in known:
                raise UsageError(
                    f"alerts.{path}: {name!r} is no destination",
                    f"configured are: {', '.join(sorted(known)) or 'none'}",
                )

        here = not node.environments or self._environment in node.environments
        resolved = _Resolved(
            path,
            parse_all(node.matchers),
            receivers,
            node.continue_,
            here,
            _own(node.group_by, above.group_by),
            _own(node.group_wait, above.group_wait),
            _own(node.group_interval, above.group_interval),
            _own(node.repeat_interval, above.repeat),
            (),
        )
        below = tuple(
            self._resolve(child, resolved, f"{path}.routes[{number}]", known)
            for number, child in enumerate(node.routes)
        )
        return replace(resolved, below=below)

    @property
    def shortest_repeat(self) -> Seconds:
        """The shortest `repeat_interval` that any node has."""
        if self._root is None:
            return self._repeat
        nodes, shortest = [self._root], self._root.repeat
        while nodes:
            node = nodes.pop()
            nodes.extend(node.below)
            shortest = min(shortest, node.repeat)
        return shortest

    def ways(self, labels: Mapping[str, str]) -> tuple[Way, ...]:
        """Every destination of an alert with these labels, each once."""
        if self._root is None:
            names = destinations(labels, self._severities)
            return tuple(Way(name, None, self._repeat) for name in names)
        found: dict[str, Way] = {}
        for node in _stays(self._root, labels):
            if node is self._root and labels.get("severity", "").strip().lower() == "none":
                continue
            for name in node.receivers:
                if name not in found:
                    found[name] = Way(name, _group(node, labels), node.repeat)
        return tuple(found.values())


def _own(told: T | None, inherited: T) -> T:
    return inherited if told is None else told


def _stays(node: _Resolved, labels: Mapping[str, str]) -> list[_Resolved]:
    found: list[_Resolved] = []
    for child in node.below:
        if child.here and match(child.matchers, labels):
            found.extend(_stays(child, labels))
            if not child.continues:
                break
    return found or [node]


def _group(node: _Resolved, labels: Mapping[str, str]) -> Group | None:
    if not node.group_by or node.group_by == _ALL_LABELS:
        return None
    values = [(name, labels.get(name, "")) for name in sorted(node.group_by)]
    return Group(json.dumps([node.path, values]), node.group_wait, node.group_interval)
