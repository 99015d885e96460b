"""The value before, readable for a while: `PATH.previous` beside `PATH`.

While a rotation overlaps, a reader that still holds the old credential can find it, and so can one
that meets a server which has not learnt the new one. The old bytes come from the generation that is
live when a new version arrives; on a pod that starts in the middle of a rotation, from the
provider, where it keeps them. Pure: what is shown and what time it is come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from agent.secrets.tree import Item
from agent.units import Seconds, UnixTime

SUFFIX = ".previous"


def with_previous(
    items: Mapping[str, Item],
    shown: Mapping[str, Item],
    kept: Mapping[str, Item],
    overlap: Callable[[str], Seconds],
    now: UnixTime,
) -> dict[str, Item]:
    """`items` and, for each whose overlap has not ended, its predecessor.

    Args:
        items: what the next generation shows, by path.
        shown: what the live one shows of those paths and their predecessors.
        kept: predecessors that a provider still has, by the path of their successor.
        overlap: how long the predecessor of a path stays.
        now: the time that a predecessor found now was replaced at.
    """
    found = dict(items)
    for path, item in items.items():
        before = _before(path, item, shown, kept, now)
        name = path + SUFFIX
        if before is None or before.replaced_at is None or name in items:
            continue
        age = now - before.replaced_at
        if before.data != item.data and age < overlap(path):
            found[name] = replace(before, path=name, mode=item.mode, uid=item.uid, gid=item.gid)
    return found


def _before(
    path: str,
    item: Item,
    shown: Mapping[str, Item],
    kept: Mapping[str, Item],
    now: UnixTime,
) -> Item | None:
    live = shown.get(path)
    if live is not None and live.data != item.data:
        if (live.version, live.provider) != (item.version, item.provider):
            return replace(live, replaced_at=now)
        return None  # the same version in another form
    return shown.get(path + SUFFIX) or kept.get(path)
