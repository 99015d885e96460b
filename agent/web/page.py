"""The status page: one template, filled once on the server, kept fresh by the browser.

`agent.web.view` says what is shown, as a small tree of elements. Here that tree becomes HTML for
the first paint; the page's own script asks for the same tree every second and patches the document
with it, so there is one rendering of a status and not two. Style and script are inline and allowed
by their digests alone: nothing else runs or loads, whatever a label or a reason contains.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from agent.units import UnixTime
from agent.web.view import Node, body, title

_TEMPLATE = files("agent.web").joinpath("page.html").read_text(encoding="utf-8")
_PARTS = re.compile(r"(<!--title-->|<!--view-->)")


def _allowed(tag: str) -> str:
    """The CSP source that allows the template's one inline `tag`."""
    inline = re.search(rf"<{tag}>(.*?)</{tag}>", _TEMPLATE, re.DOTALL)
    assert inline is not None
    digest = hashlib.sha256(inline.group(1).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


CSP = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_allowed('style')}",
        f"script-src {_allowed('script')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def view(status: Mapping[str, Any], now: UnixTime) -> dict[str, Any]:
    """What the page's script asks for: the title and the tree of elements."""
    return {"title": title(status), "view": body(status, now)}


def page(status: Mapping[str, Any], now: UnixTime) -> bytes:
    """The whole page, readable without its script."""
    filled = {
        "<!--title-->": html.escape(title(status)),
        "<!--view-->": to_html(body(status, now)),
    }
    parts = (filled.get(part, part) for part in _PARTS.split(_TEMPLATE))
    return "".join(parts).encode("utf-8", "replace")


def to_html(node: Node) -> str:
    """One element and what is in it, every text and attribute escaped."""
    if isinstance(node, str):
        return html.escape(node)
    tag, attributes, *children = node
    written = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"<{tag}{written}>{''.join(to_html(child) for child in children)}</{tag}>"
