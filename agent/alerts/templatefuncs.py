"""The functions that templates may call: Go's own, and Prometheus's."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from agent.alerts import gofmt
from agent.alerts.promql.regex import translate
from agent.alerts.promql.relabel import expand

if TYPE_CHECKING:
    from agent.alerts.promql import Sample


class RenderError(Exception):
    """A template cannot be rendered with these values; the text says why."""


def _query(ask: Callable[[str], list[Sample]] | None, text: str) -> list[dict[str, Any]]:
    if ask is None:
        raise RenderError("query is not available here")
    return [{"Labels": dict(found.labels), "Value": found.value} for found in ask(text)]


def _first(found: list[dict[str, Any]]) -> dict[str, Any]:
    if not found:
        raise RenderError("first() called on vector with no elements")
    return found[0]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return "string"
    raise RenderError("invalid type for comparison")


def _alike(a: Any, b: Any) -> None:
    """Go compares only what is of one kind: a float with 1.0, not with 1."""
    if _kind(a) != _kind(b):
        raise RenderError("incompatible types for comparison")


def _eq(a: Any, *others: Any) -> bool:
    if not others:
        raise RenderError("missing argument for comparison")
    for other in others:
        _alike(a, other)
    return any(a == other for other in others)


def _ne(a: Any, b: Any) -> bool:
    _alike(a, b)
    return bool(a != b)


def _lt(a: Any, b: Any) -> bool:
    _alike(a, b)
    if isinstance(a, bool):
        raise RenderError("invalid type for comparison")
    return bool(a < b)


def _le(a: Any, b: Any) -> bool:
    return _lt(a, b) or _eq(a, b)


def _gt(a: Any, b: Any) -> bool:
    return not _le(a, b) and not (isinstance(a, float) and isnan(a))


def _ge(a: Any, b: Any) -> bool:
    return not _lt(a, b) and not (isinstance(a, float) and isnan(a))


def _and(first: Any, *rest: Any) -> Any:
    for value in rest:
        if not first:
            return first
        first = value
    return first


def _or(first: Any, *rest: Any) -> Any:
    for value in rest:
        if first:
            return first
        first = value
    return first


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, "")
        elif isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            raise RenderError(f"can't index {gofmt.show(value)} by {gofmt.show(key)}")
    return value


def _title(text: str) -> str:
    out, inside = [], False
    for char in text:
        out.append(char if inside else char.upper())
        inside = char.isalnum() or char in "_'"
    return "".join(out)


def _re_replace_all(pattern: str, replacement: str, text: str) -> str:
    return translate(pattern).sub(lambda match: expand(replacement, match), text)


def _match(pattern: str, text: str) -> bool:
    return translate(pattern).search(text) is not None


def _sort_by_label(label: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda sample: str(sample["Labels"].get(label, "")))


def _strip_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")) or not port.isdigit():
        return text
    return host.removeprefix("[").removesuffix("]")


def _strip_domain(text: str) -> str:
    host = _strip_port(text)
    port = text[len(host) :] if host != text and not text.startswith("[") else ""
    if ":" in host or host.replace(".", "").isdigit():
        return text
    return host.split(".", 1)[0] + port


def _print(*args: Any) -> str:
    return "".join(gofmt.show(argument) for argument in args)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "or": _or,
    "not": lambda value: not value,
    "eq": _eq,
    "ne": _ne,
    "lt": _lt,
    "le": _le,
    "gt": _gt,
    "ge": _ge,
    "len": len,
    "index": _index,
    "print": _print,
    "printf": gofmt.sprintf,
    "query": _query,
    "first": _first,
    "label": lambda name, sample: sample["Labels"].get(name, ""),
    "value": lambda sample: sample["Value"],
    "sortByLabel": _sort_by_label,
    "humanize": gofmt.humanize,
    "humanize1024": gofmt.humanize1024,
    "humanizeDuration": gofmt.humanize_duration,
    "humanizePercentage": gofmt.humanize_percentage,
    "humanizeTimestamp": gofmt.humanize_timestamp,
    "title": _title,
    "toUpper": str.upper,
    "toLower": str.lower,
    "match": _match,
    "reReplaceAll": _re_replace_all,
    "stripPort": _strip_port,
    "stripDomain": _strip_domain,
    "urlQueryEscape": quote_plus,
}
"""By the names that templates use."""
