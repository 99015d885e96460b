"""Many messages as one: which waiting ones go together next, and what a digest says. Pure.

Three things make a digest of several alerts. A group whose time has come. A storm of what is not
critical: the destination's rate is used up and more than `more_than` wait: all of them. A storm of
critical ones: more than `critical_more_than` wait: those beyond, named each one, in as many digests
as their names need. Who is told in a digest is fixed and durable before it is sent, so that after a
kill the very same digest goes again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.alerts.outboxrows import Item
from agent.alerts.routing import Notification
from agent.configrouting import Storm

ROOM = 2600
"""Characters of names that fit one message where a notifier does not say otherwise."""
NAME = "AlertDigest"
_LINE_MAX = 300


@dataclass(frozen=True, slots=True)
class Traits:
    """What a notifier says of its receiver, in `traits`; most need not.

    `together`: it takes digests. `keyed`: it has an incident for each dedup key, which only a
    resolve of that key closes. `room`: characters of names that fit one message.
    """

    together: bool = True
    keyed: bool = False
    room: int = ROOM


PLAIN = Traits()
CALM = Storm()


def pick(
    heads: Sequence[Item], *, used_up: bool, storm: Storm, together: bool, keyed: bool, room: int
) -> list[Item]:
    """What goes next: one item, or several that become a digest.

    Args:
        heads: what may go now, most urgent first; not empty.
        used_up: whether the rate allows no other after the next.
        storm: the bounds.
        together: whether the destination takes digests.
        keyed: whether it has an incident for each key, which only a message of that key closes.
        room: characters of names that fit one message.
    """
    first = heads[0]
    if first.digest:
        return [item for item in heads if item.digest == first.digest]
    status = first.notification.status
    if not together or first.alone or (keyed and status == "resolved"):
        return [first]
    free = [i for i in heads if not i.digest and not i.alone and i.notification.status == status]
    critical = first.notification.critical and status == "firing"
    if used_up and critical:
        waiting = [item for item in free if item.notification.critical]
        beyond = waiting[storm.critical_more_than :]
        if len(beyond) > 1:
            return _fitting(beyond, room)
    elif used_up:
        waiting = [i for i in free if status == "resolved" or not i.notification.critical]
        if len(waiting) > storm.more_than:
            return waiting
    if first.group and not critical:
        return [i for i in free if i.group == first.group and not i.notification.critical]
    return [first]


def digest_key(destination: str, items: Iterable[Item]) -> str:
    """The key of the digest of these rows: the same for the same rows, for ever."""
    text = "\n".join([destination, *(str(item.id) for item in items)])
    return "jules-digest-" + hashlib.sha256(text.encode()).hexdigest()[:48]


def digest(items: Sequence[Item], room: int) -> Notification:
    """The one message about all of `items`; what they have in common is said once."""
    told = [item.notification for item in items]
    first = told[0]
    names = Counter(n.name for n in told)
    name = first.name if len(names) == 1 else NAME
    severity = "critical" if any(n.critical for n in told) else first.severity
    labels = _common([n.labels for n in told])
    verb = "fire" if first.status == "firing" else "are resolved"
    counts = ", ".join(f"{key} ×{count}" for key, count in names.most_common(8))
    more = f" and {len(names) - 8} other names" if len(names) > 8 else ""
    annotations = _common([n.annotations for n in told])
    annotations["summary"] = f"{len(told)} alerts {verb}: {counts}{more}"
    annotations["description"] = _list(told, labels, room)
    return replace(
        first,
        name=name,
        severity=severity,
        dedup_key=items[0].digest,
        value=None,
        active_at=min(n.active_at for n in told),
        fired_at=min(n.fired_at for n in told),
        resolved_at=max((n.resolved_at for n in told if n.resolved_at), default=None),
        repeated=all(n.repeated for n in told),
        labels={**labels, "alertname": name, "severity": severity},
        annotations=annotations,
        context={**_common([n.context for n in told]), "alerts": str(len(told))},
    )


def closing(last: Notification, key: str) -> Notification:
    """The resolve of a digest's incident, when the last of its alerts is over."""
    summary = f"All alerts of the digest are resolved; the last was: {last.summary}"
    return replace(last, dedup_key=key, annotations={**last.annotations, "summary": summary})


def line(notification: Notification, common: Mapping[str, str]) -> str:
    """One alert in a digest: its name and what tells it from the others."""
    own = ", ".join(
        f"{key}={value}"
        for key, value in sorted(notification.labels.items())
        if key not in ("alertname", "severity") and common.get(key) != value
    )
    text = f"{notification.name} ({own})" if own else notification.name
    return text if len(text) <= _LINE_MAX else text[: _LINE_MAX - 1] + "…"


def _list(told: Sequence[Notification], common: Mapping[str, str], room: int) -> str:
    lines: list[str] = []
    left = room
    for number, notification in enumerate(told):
        text = line(notification, common)
        left -= len(text) + 1
        if left < 0:
            lines.append(f"and {len(told) - number} more, which the agent's page lists")
            break
        lines.append(text)
    return "\n".join(lines)


def _fitting(items: Sequence[Item], room: int) -> list[Item]:
    """As many of `items` as one message can name, and at least two."""
    left = room
    for number, item in enumerate(items):
        left -= len(line(item.notification, {})) + 1
        if left < 0 and number >= 2:
            return list(items[:number])
    return list(items)


def _common(dicts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {
        key: value
        for key, value in dicts[0].items()
        if all(other.get(key) == value for other in dicts[1:])
    }
