"""Which metrics are asked for alone and often, and which rules are judged on them. Pure.

The fast lane carries the families that critical rules name, also through recording rules, but for
histograms' buckets. A rule is judged with it when everything that it reads comes from there (or
says how scraping goes), whatever its severity; a group with an `interval` of its own is judged at
that, as its author asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal
from urllib.parse import urlencode

from agent.alerts.births import base_name, told_by
from agent.alerts.rules import AlertRule, Group, RecordRule

Lane = Literal["all", "fast", "slow"]

SYNTHETIC = frozenset({"up", "scrape_duration_seconds", "scrape_samples_scraped"})
"""What every scrape writes about itself."""
_JUDGED = frozenset({"ALERTS", "ALERTS_FOR_STATE"})
OWN = "jules_agent_"
LONGEST_QUERY = 4000
"""Characters of names that a request may carry; some servers cut lines of 8 KiB."""
_NAME = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)", re.MULTILINE)


def critical(rule: AlertRule | RecordRule) -> bool:
    """Whether the rule says of itself that it is critical."""
    if not isinstance(rule, AlertRule):
        return False
    severity = rule.labels.get("severity")
    return severity is not None and severity.text == "critical"


def critical_names(groups: Iterable[Group]) -> frozenset[str]:
    """The metrics of a target that critical rules read, directly or through recording rules."""
    rules = [rule for group in groups for rule in group.rules]
    recorded: dict[str, set[str]] = {}
    for rule in rules:
        if isinstance(rule, RecordRule):
            recorded.setdefault(rule.name, set()).update(rule.expr.names or ())
    found: set[str] = set()
    waiting = [name for rule in rules if critical(rule) for name in rule.expr.names or ()]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(recorded.get(name, ()))
    made = SYNTHETIC | _JUDGED | recorded.keys()
    return frozenset(name for name in found - made if not name.startswith(OWN))


def fast_names(critical_names: frozenset[str]) -> frozenset[str]:
    """Those of them that belong on the fast lane: all but histograms' buckets.

    Buckets are most of the lines of an exposition, and what they cost the trader at each asking; a
    quantile over a minute, that must hold besides, does not turn in a quarter of a second.
    """
    return frozenset(name for name in critical_names if not name.endswith("_bucket"))


def quick_rules(groups: Sequence[Group], fast: frozenset[str]) -> frozenset[int]:
    """The `id`s of the rules that read nothing but the metrics `fast`, one at least."""
    quick: set[int] = set()
    known = set(fast)
    slow_names = {
        rule.name
        for group in groups
        if group.interval is not None
        for rule in group.rules
        if isinstance(rule, RecordRule)
    }
    changed = True
    while changed:  # recording rules may stand in any order
        changed = False
        for group in groups:
            if group.interval is not None:
                continue
            for rule in group.rules:
                names = rule.expr.names
                if id(rule) in quick or not names or not names & known:
                    continue
                if names <= known | SYNTHETIC:
                    quick.add(id(rule))
                    if isinstance(rule, RecordRule) and rule.name not in slow_names:
                        known.add(rule.name)
                        changed = True
    return frozenset(quick)


def asked_for(names: Iterable[str], births: bool) -> list[str]:
    """The `name[]` of a request: the samples, and for libraries that choose by family that too."""
    wanted = set(names)
    asked = wanted | {base_name(name) for name in wanted if not name.endswith("_total")}
    if (
        births
    ):  # the start of the process is on the slow lane: asking costs the trader a look at /proc
        asked |= {name for name in told_by(wanted) if name.endswith("_created")}
    return sorted(asked)


def narrowed(url: str, asked: Sequence[str]) -> str:
    """`url` with the names in its query."""
    query = urlencode([("name[]", name) for name in asked])
    return f"{url}{'&' if '?' in url else '?'}{query}"


def ignores_names(body: bytes, asked: Iterable[str]) -> bool:
    """Whether an answer has a family that was not asked for: the target does not know `name[]`."""
    families = set(asked)
    families |= {base_name(name) for name in families}
    for match in set(_NAME.findall(body)):
        name = match.decode("ascii")
        base = name.removesuffix("_created")
        if name not in families and base_name(base) not in families and base not in families:
            return True
    return False
