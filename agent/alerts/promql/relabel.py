"""`label_replace` and `label_join`: series under other labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from agent.alerts.errors import ExprError
from agent.alerts.labels import Labels
from agent.alerts.promql.regex import translate

_REFERENCE = re.compile(r"\$(?:(\$)|\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))")


def label_replace(dst: str, replacement: str, src: str, pattern: str) -> Callable[[Labels], Labels]:
    """Set `dst` to `replacement` (with `$1`, `${name}`) where `pattern` matches all of `src`.

    Raises:
        ExprError: `pattern` or `dst` is not usable.
    """
    if not dst:
        raise ExprError("invalid destination label name in label_replace(): ")
    compiled = translate(pattern)

    def change(labels: Labels) -> Labels:
        match = compiled.fullmatch(labels.get(src))
        return labels if match is None else labels.replaced(dst, expand(replacement, match))

    return change


def label_join(dst: str, separator: str, sources: Sequence[str]) -> Callable[[Labels], Labels]:
    """Set `dst` to the values of `sources`, joined.

    Raises:
        ExprError: a label name is empty.
    """
    if not dst:
        raise ExprError("invalid destination label name in label_join(): ")
    if not all(sources):
        raise ExprError("invalid source label name in label_join(): ")

    def change(labels: Labels) -> Labels:
        return labels.replaced(dst, separator.join(labels.get(source) for source in sources))

    return change


def expand(replacement: str, match: re.Match[str]) -> str:
    """The replacement with its references filled in; one to no group is empty, as in Go."""

    def one(reference: re.Match[str]) -> str:
        if reference.group(1):
            return "$"
        name = reference.group(2) or reference.group(3)
        try:
            return match.group(int(name) if name.isdecimal() else name) or ""
        except IndexError:
            return ""

    return _REFERENCE.sub(one, replacement)
