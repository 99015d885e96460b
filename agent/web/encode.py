"""Read models as strict JSON: numbers that JSON cannot hold are written as Prometheus writes them.

A gauge may be NaN or infinite, and one bare `NaN` would make the whole answer unreadable for a
browser.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def strict(tree: Any) -> Any:
    """`tree` with every float that is not finite as `"NaN"`, `"+Inf"` or `"-Inf"`."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else number(tree)
    if isinstance(tree, Mapping):
        return {str(key): strict(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple | set | frozenset):
        return [strict(value) for value in tree]
    return tree


def number(value: float) -> str:
    """A number as Prometheus's exposition writes it, to six digits."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return f"{value:.6g}"


def to_json(tree: Any, *, indent: int | None = None) -> bytes:
    """One JSON document; what JSON does not know is written as its text."""
    return json.dumps(strict(tree), default=str, allow_nan=False, indent=indent).encode()
