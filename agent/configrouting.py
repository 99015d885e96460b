"""The sections that say who is told of an alert, when, and when not.

Without a `route` each destination's own `severities` decide and nothing is grouped. Matchers are
written in Alertmanager's syntax; the alerts job parses them when it is built and refuses what is no
matcher, and so does a reload.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from agent.confignotify import CredentialRef
from agent.configtypes import Duration, HttpUrl, Positive, Section
from agent.units import Seconds

Matcher = Annotated[str, Field(min_length=1, max_length=4096)]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
TimeOfDay = Annotated[str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$")]


class Route(Section):
    """A node of the routing tree. What is not given is the parent's."""

    matchers: tuple[Matcher, ...] = Field(
        (), description='All of them must hold, such as `severity="critical"`.'
    )
    environments: tuple[str, ...] = Field(
        (), description="Only in these environments; default: in all."
    )
    receivers: tuple[str, ...] | None = Field(
        None, description="Names of destinations; `[]` is nobody."
    )
    continue_: bool = Field(
        False, alias="continue", description="Whether the nodes after this one are looked at too."
    )
    group_by: tuple[str, ...] | None = Field(
        None,
        description="Labels whose values make a group, whose messages may become one;"
        " `[...]` is all of them: no grouping.",
    )
    group_wait: Duration | None = Field(
        None, description="How long the first alert of a group waits for others; never a critical."
    )
    group_interval: Duration | None = Field(
        None, description="Shortest time between two messages about new alerts of a group."
    )
    repeat_interval: Positive | None = Field(
        None, description="What fires is told again after this."
    )
    routes: tuple[Route, ...] = Field(
        (), description="Nodes below, of the same kind; the first that matches is gone into."
    )


class Inhibition(Section):
    """While an alert that `source` matches fires, those that `target` matches are not told."""

    source: tuple[Matcher, ...] = Field(
        min_length=1, description="What the alert that mutes meets."
    )
    target: tuple[Matcher, ...] = Field(
        min_length=1, description="What the alerts that are muted meet."
    )
    equal: tuple[str, ...] = Field((), description="Labels that must have the same value on both.")


class Maintenance(Section):
    """A window that comes back: within it what the matchers meet is not told."""

    name: str = Field(min_length=1, max_length=100, description="Shown with what it mutes.")
    matchers: tuple[Matcher, ...] = Field((), description="Default: every alert.")
    days: tuple[Weekday, ...] = Field(
        ("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
        min_length=1,
        description="Days on which it begins.",
    )
    start: TimeOfDay = Field("00:00", description="When it begins, as `HH:MM`.")
    end: TimeOfDay = Field(
        "24:00", description="When it ends; not after `start` means on the next day."
    )
    zone: str = Field("UTC", description="IANA time zone, such as `Europe/Zurich`.")

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        if zone == "UTC":
            return zone
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # init need not pay for it

        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"no such time zone: {zone!r}; is tzdata installed?") from None
        return zone

    @model_validator(mode="after")
    def _begins_in_the_day(self) -> Maintenance:
        if self.start == "24:00":
            raise ValueError("`start` is a time of the day; write 00:00")
        return self


class Flapping(Section):
    """When an alert that comes and goes is told once as flapping, and then not until it is calm."""

    changes: int = Field(
        10, ge=0, description="More firings and resolves than this within `within`; 0: never."
    )
    within: Positive = Field(Seconds(600.0), description="See `changes`.")
    calm: Positive = Field(Seconds(300.0), description="Without a change for this long it is calm.")


class Storm(Section):
    """When what waits for a destination whose rate is used up becomes one message."""

    more_than: int = Field(
        20, ge=1, description="More waiting messages that are not critical become one digest."
    )
    critical_more_than: int = Field(
        60, ge=1, description="More waiting critical ones become digests that name each."
    )


class Fallback(Section):
    """Who is told in place of a destination that is down."""

    destination: str = Field(description="The one that is down.")
    to: str = Field(description="The one that is told instead.")
    after: Positive = Field(Seconds(300.0), description="How long a message waits before it is.")


class DeadMan(Section):
    """A ping to an outside URL, which stops when evaluation stops."""

    url: HttpUrl | None = Field(None, description="The URL; or name `url_from`.")
    url_from: CredentialRef | None = Field(
        None, description="The URL, by where it is, when it is itself a secret."
    )
    method: Literal["GET", "POST"] = Field("GET", description="How it is asked.")
    interval: Positive = Field(Seconds(60.0), description="Time between two pings.")
    timeout: Positive = Field(Seconds(5.0), description="Deadline of one ping.")

    @model_validator(mode="after")
    def _one_address(self) -> DeadMan:
        if (self.url is None) == (self.url_from is None):
            raise ValueError("name exactly one of `url`, `url_from`")
        return self
