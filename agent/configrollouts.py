"""The sections that say how a version goes live and how long it stays: bake, freeze, hook, keep."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from agent.configtypes import Duration, FilePath, HttpUrl, Positive, Section, left_out
from agent.units import Seconds

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""In the order of `date.weekday()`."""


def _parse_time(value: object) -> object:
    """`"09:30"` → a time. A bare YAML `09:30` is the number 570 to some readers: refused."""
    if isinstance(value, str):
        if not re.fullmatch(r"\d\d:\d\d", value):
            raise ValueError('not a time of day; write it quoted, as "09:30"')
        return dt.time.fromisoformat(value)
    if isinstance(value, dt.time):
        return value
    raise ValueError('not a time of day; write it quoted, as "09:30"')


TimeOfDay = Annotated[dt.time, BeforeValidator(_parse_time)]


class BakeGate(Section):
    """A PromQL condition. Without bounds any result is a breach; with one, the value is judged."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    expr: str = Field(min_length=1)
    max: float | None = Field(
        None, allow_inf_nan=False, description="The value must not be above this."
    )
    min: float | None = Field(
        None, allow_inf_nan=False, description="The value must not be below this."
    )
    max_increase: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="The value must not be this much above the reading before the flip.",
    )
    max_ratio: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="The value must not be above this many times the reading before the flip.",
    )

    @property
    def judges_value(self) -> bool:
        """Whether a result is compared, instead of being a breach by being there."""
        return any(bound is not None for bound in (self.max, self.min)) or self.relative

    @property
    def relative(self) -> bool:
        """Whether the reading before the flip is needed."""
        return self.max_increase is not None or self.max_ratio is not None


class Bake(Section):
    """How long a new version is watched, and by what."""

    duration: Duration = Seconds(60.0)
    interval: Positive = Seconds(1.0)
    gates: tuple[BakeGate, ...] = left_out(
        ({"name": "critical-alerts", "expr": 'ALERTS{alertstate="firing", severity="critical"}'},)
    )

    @model_validator(mode="after")
    def _distinct(self) -> Bake:
        names = [gate.name for gate in self.gates]
        if len(set(names)) != len(names):
            raise ValueError("two gates have the same `name`")
        return self


class FreezeWindow(Section):
    """A time of day at which no new version goes live, by an exchange's own clock."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Shown where it stops something.")
    zone: str = Field(description="Time zone, such as `America/New_York`.")
    start: TimeOfDay = Field(description='First minute, quoted: `"09:30"`.')
    end: TimeOfDay = Field(
        description="First minute after it; one that is not later than `start` is on the next day."
    )
    days: tuple[Day, ...] = Field(
        ("mon", "tue", "wed", "thu", "fri"), min_length=1, description="Days on which it begins."
    )
    holidays: tuple[dt.date, ...] = Field(
        (), description="Dates on which it does not begin: the exchange is closed."
    )
    early_ends: dict[dt.date, TimeOfDay] = Field(
        default_factory=dict, description="Dates on which it ends at another time: half days."
    )

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        import zoneinfo  # only whoever has a window pays for it

        try:
            zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                "no such time zone here; the image needs /usr/share/zoneinfo or `tzdata`"
            ) from None
        return zone

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> FreezeWindow:
        if self.start == self.end:
            raise ValueError("`start` and `end` are the same minute")
        if any(end <= self.start for end in self.early_ends.values()):
            raise ValueError("an early end is not after `start`")
        return self


class Signal(Section):
    """A signal to the trader's process."""

    name: Literal["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGWINCH"] = Field(
        "SIGHUP", description="SIGHUP, SIGUSR1, SIGUSR2, SIGTERM or SIGWINCH."
    )
    pid_file: FilePath = Field(description="File that holds the process's number.")


class OnFlip(Section):
    """How the trader is told that another version is live. Exactly one of the three ways."""

    command: tuple[str, ...] | None = Field(
        None, min_length=1, description="Program and arguments; no shell, a clean environment."
    )
    url: HttpUrl | None = Field(None, description="Address that the versions are posted to.")
    signal: Signal | None = None
    deadline: Positive = Field(Seconds(10.0), description="Longest that it may take.")

    @model_validator(mode="after")
    def _exactly_one(self) -> OnFlip:
        if sum(way is not None for way in (self.command, self.url, self.signal)) != 1:
            raise ValueError("name exactly one of `command`, `url`, `signal`")
        if self.command and not self.command[0].startswith("/"):
            raise ValueError("the command's program is not an absolute path")
        return self


class Retention(Section):
    """Which versions stay on disk."""

    keep: int = Field(5, ge=2, le=1000, description="Newest versions kept, the live one included.")
    hours: float = Field(
        24.0, ge=0, allow_inf_nan=False, description="Versions used within these are kept as well."
    )
    evidence_hours: float = Field(
        168.0,
        ge=0,
        allow_inf_nan=False,
        description="How long one in quarantine is kept to look at.",
    )
