"""A few texts out of an STS answer, without an XML parser: the answer is small and flat, and a
parser would be one more thing that hostile bytes reach. Pure."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence


def pick(body: bytes, names: Sequence[str]) -> list[str] | None:
    """The text of each element, in order; None where one is missing or there twice."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    found = []
    for name in names:
        texts = re.findall(rf"<{name}>([^<]+)</{name}>", text)
        if len(texts) != 1:
            return None
        found.append(html.unescape(texts[0]))
    return found
