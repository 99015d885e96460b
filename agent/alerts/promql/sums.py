"""Sums that keep what adding floats loses, step for step as Prometheus does (Kahan, Neumaier)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isinf


def add(value: float, total: float, lost: float) -> tuple[float, float]:
    """`total` plus `value`, and what has been lost to rounding so far."""
    t = total + value
    if isinf(t):
        return t, 0.0
    if abs(total) >= abs(value):
        return t, lost + ((total - t) + value)
    return t, lost + ((value - t) + total)


def exact_sum(values: Iterable[float]) -> float:
    """The compensated sum."""
    total = lost = 0.0
    for value in values:
        total, lost = add(value, total, lost)
    return total if isinf(total) else total + lost


def mean(values: Sequence[float]) -> float:
    """The mean: by the sum, or incrementally from where the sum would overflow."""
    total, lost, average = values[0], 0.0, 0.0
    incremental = False
    count = 1.0
    for value in values[1:]:
        count += 1.0
        if not incremental:
            new_total, new_lost = add(value, total, lost)
            if not isinf(new_total):
                total, lost = new_total, new_lost
                continue
            incremental = True
            average = total / (count - 1)
            lost /= count - 1
        share = (count - 1) / count
        average, lost = add(value / count, share * average, share * lost)
    if incremental:
        return average + lost
    return total / count + lost / count
