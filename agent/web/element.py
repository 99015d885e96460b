"""Elements of the status page as plain, JSON-able trees, and the ways of saying a time or a state.

An element is `[tag, attributes, child, …]`, a child is an element or a text. Nothing here escapes:
text stays text until `agent.web.page` writes HTML or the browser makes text nodes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from agent.units import Seconds, UnixTime
from agent.web.encode import number

Node = str | list[Any]
"""A text, or `[tag, attributes, *children]`."""

_SIGNS = {"good": "✓", "warn": "▲", "bad": "✕", "off": "–"}


def el(tag: str, cls: str, *children: Node, **attributes: str) -> list[Any]:
    """One element. Neighbouring texts become one and empty ones vanish, as they do in a parser, so
    that the browser's document and the tree stay comparable child by child."""
    kept: list[Any] = []
    for child in children:
        if isinstance(child, str) and kept and isinstance(kept[-1], str):
            kept[-1] += child
        elif child:
            kept.append(child)
    return [tag, {**({"class": cls} if cls else {}), **attributes}, *kept]


def badge(text: str, tone: str, *, strong: bool = False) -> list[Any]:
    """A state as a sign and a word: the colour only repeats them."""
    sign = el("span", "", _SIGNS[tone], **{"aria-hidden": "true"})
    return el("span", f"badge {tone}{' strong' if strong else ''}", sign, f" {text}")


def table(name: str, headings: Sequence[str], rows: Sequence[Sequence[Node]]) -> list[Any]:
    """A table whose cells carry their heading, for the narrow form without a heading row."""
    top = el("tr", "", *(el("th", "", heading, scope="col") for heading in headings))
    lines = [
        el(
            "tr",
            "",
            *(
                el("td", "", cell, **{"data-name": heading})
                for heading, cell in zip(headings, row, strict=True)
            ),
        )
        for row in rows
    ]
    return el("table", "", el("thead", "", top), el("tbody", "", *lines), **{"aria-label": name})


def shown(value: object) -> str:
    """A value as text; a number to six digits, nothing as a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return number(value)
    return str(value)


def link(url: str) -> list[Any]:
    """A link out, for http and https alone; anything else stays text."""
    if url.startswith(("https://", "http://")):
        return el("a", "", url, href=url, rel="noreferrer")
    return el("span", "", url)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `4 min 10 s`, `3 h 05 min`, `2 d 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s" if whole < 600 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    hours = whole % 86400 // 3600
    return f"{whole // 86400} d {hours} h" if hours else f"{whole // 86400} d"


def ago(at: float | None, now: UnixTime, *, after: str = " ago") -> Node:
    """A moment in the past, as a person says it; the absolute time is on hover."""
    if at is None:
        return "never"
    past = Seconds(now - at)
    whole = duration(past if past < 0.05 or past >= 1 else round(past, 1))
    told = "just now" if past < 1 and after else f"{whole}{after}"
    return el("time", "", told, datetime=_iso(at), title=_absolute(at))


def clock_time(at: float) -> Node:
    """A moment by the clock, in UTC."""
    text = datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")
    return el("time", "", text, datetime=_iso(at), title=_absolute(at))


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _absolute(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
