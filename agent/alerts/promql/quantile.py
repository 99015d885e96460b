"""Quantiles: of plain values, and of classic histograms with Prometheus's repairs.

A histogram's buckets are cumulative counts by upper bound. Scrapes are not atomic and floats are
not exact, so counts may fall where they must not: differences below one part in 10^12 are ignored
and real decreases are lifted, exactly as Prometheus does it, so that both page alike.
"""

from __future__ import annotations

from math import floor, inf, isnan, nan

_TOLERANCE = 1e-12
_SMALLEST_NORMAL = 2.2250738585072014e-308

Buckets = list[tuple[float, float]]
"""(upper bound, cumulative count)."""


def quantile(q: float, values: list[float]) -> float:
    """The `q`-quantile of `values`, between two of them by weight; NaNs sort first."""
    if not values or isnan(q):
        return nan
    if q < 0:
        return -inf
    if q > 1:
        return inf
    ordered = [v for v in values if isnan(v)] + sorted(v for v in values if not isnan(v))
    rank = q * (len(ordered) - 1)
    lower = max(0, floor(rank))
    upper = min(len(ordered) - 1, lower + 1)
    weight = rank - floor(rank)
    return ordered[lower] * (1 - weight) + ordered[upper] * weight


def bucket_quantile(q: float, buckets: Buckets) -> float:
    """`histogram_quantile` of one classic histogram."""
    if isnan(q):
        return nan
    if q < 0:
        return -inf
    if q > 1:
        return inf
    bounds, counts = _cumulative(buckets)
    if bounds[-1] != inf or len(bounds) < 2:
        return nan
    _repair(counts)
    observations = counts[-1]
    if observations == 0:
        return nan
    rank = q * observations
    b = _first_at_least(counts, rank)
    if b == len(counts) - 1:
        return bounds[-2]
    if b == 0 and bounds[0] <= 0:
        return bounds[0]
    start, count = 0.0, counts[b]
    if b > 0:
        start = bounds[b - 1]
        count -= counts[b - 1]
        rank -= counts[b - 1]
    return start + (bounds[b] - start) * (rank / count)


def bucket_fraction(lower: float, upper: float, buckets: Buckets) -> float:
    """`histogram_fraction` of one classic histogram: how much of it is in [lower, upper]."""
    bounds, counts = _cumulative(buckets)
    if bounds[-1] != inf:
        return nan
    total = counts[-1]
    if total == 0 or isnan(total) or isnan(lower) or isnan(upper):
        return nan
    if lower >= upper:
        return 0.0
    below_lower = _rank_of(lower, bounds, counts)
    below_upper = _rank_of(upper, bounds, counts)
    return (below_upper - below_lower) / total


def _rank_of(value: float, bounds: list[float], counts: list[float]) -> float:
    """How many observations are below `value`, linear within a bucket."""
    rank = 0.0
    floor_bound = 0.0 if bounds[0] > 0 else -inf
    for bound, count in zip(bounds, counts, strict=True):
        if floor_bound >= value:
            return min(rank, counts[-1])
        if bound > value:
            if floor_bound == -inf:
                return min(count, counts[-1])
            part = rank + (count - rank) * (value - floor_bound) / (bound - floor_bound)
            return min(part, counts[-1])
        rank, floor_bound = count, bound
    return counts[-1]


def _cumulative(buckets: Buckets) -> tuple[list[float], list[float]]:
    """Bounds in order and their counts; equal bounds are added together."""
    bounds: list[float] = []
    counts: list[float] = []
    for bound, count in sorted(buckets, key=lambda bucket: bucket[0]):
        if bounds and bounds[-1] == bound:
            counts[-1] += count
        else:
            bounds.append(bound)
            counts.append(count)
    return bounds, counts


def _repair(counts: list[float]) -> None:
    before = counts[0]
    for i in range(1, len(counts)):
        now = counts[i]
        if now == before:
            continue
        if now < before or _almost(before, now):
            counts[i] = before
            continue
        before = now


def _almost(a: float, b: float) -> bool:
    """Whether two counts differ by less than floats can be trusted with."""
    if isnan(a) or isnan(b):
        return isnan(a) and isnan(b)
    total, difference = abs(a) + abs(b), abs(a - b)
    if a == 0 or b == 0 or total < _SMALLEST_NORMAL:
        return difference < _TOLERANCE * _SMALLEST_NORMAL
    return difference / min(total, 1.7976931348623157e308) < _TOLERANCE


def _first_at_least(counts: list[float], rank: float) -> int:
    """The first bucket that holds `rank`; a count that is NaN holds none."""
    low, high = 0, len(counts) - 1
    while low < high:
        middle = (low + high) // 2
        if counts[middle] >= rank:
            high = middle
        else:
            low = middle + 1
    return low
