"""Label sets: what a series is called.

A `Labels` is immutable and compares by its sorted pairs, as Prometheus orders them. What an
expression derives from it again and again (the set without the metric's name, the part that it is
matched or grouped by) is remembered on it: series live long, and rules ask the same every second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

NAME = "__name__"
BUCKET = "le"

Pairs = tuple[tuple[str, str], ...]


class Projection:
    """A choice of labels: those in `names`, or all but those. Made by `projection`, once each."""

    __slots__ = ("keeps", "names")

    def __init__(self, keeps: bool, names: frozenset[str]) -> None:
        self.keeps = keeps
        self.names = names


class Labels:
    """An immutable label set. A label with an empty value is the same as no label."""

    __slots__ = ("_derived", "_hash", "_nameless", "key", "map")

    def __init__(self, labels: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        self.map: dict[str, str] = {k: v for k, v in dict(labels).items() if v}
        self.key: Pairs = tuple(sorted(self.map.items()))
        self._hash = hash(self.key)
        self._nameless: Labels | None = None
        self._derived: dict[Projection, Labels] | None = None

    def __repr__(self) -> str:
        return self.text()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and self.key == other.key

    def __hash__(self) -> int:
        return self._hash

    def get(self, name: str) -> str:
        """The value of label `name`, empty when there is none."""
        return self.map.get(name, "")

    @property
    def nameless(self) -> Labels:
        """The same without the metric's name."""
        found = self._nameless
        if found is None:
            found = self
            if NAME in self.map:
                found = Labels((k, v) for k, v in self.key if k != NAME)
            self._nameless = found
        return found

    def project(self, projection: Projection) -> Labels:
        """The part of it that `projection` leaves."""
        known = self._derived
        if known is None:
            known = self._derived = {}
        found = known.get(projection)
        if found is None:
            if len(known) >= _MOST_DERIVED:
                known.clear()
            names = projection.names
            if projection.keeps:
                found = Labels((k, v) for k, v in self.key if k in names)
            else:
                found = Labels((k, v) for k, v in self.key if k not in names)
            known[projection] = found
        return found

    def replaced(self, name: str, value: str) -> Labels:
        """The same with label `name` set to `value`, or removed when `value` is empty."""
        return Labels({**self.map, name: value})

    def text(self) -> str:
        """As Prometheus writes it: `name{label="value"}`."""
        inner = ", ".join(f'{k}="{_escaped(v)}"' for k, v in self.key if k != NAME)
        name = self.get(NAME)
        return f"{name}{{{inner}}}" if inner or not name else name


@cache
def projection(keeps: bool, names: frozenset[str]) -> Projection:
    """The one projection that keeps, or drops, `names`."""
    return Projection(keeps, names)


_MOST_DERIVED = 64
EMPTY = Labels(())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
