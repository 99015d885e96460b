"""Freeze windows by the exchange's own clock."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.bundles.freeze import frozen
from agent.configrollouts import FreezeWindow
from agent.units import UnixTime

NEW_YORK = ZoneInfo("America/New_York")
SESSION: dict[str, Any] = {
    "name": "cash",
    "zone": "America/New_York",
    "start": "09:30",
    "end": "16:00",
    "holidays": ["2025-07-04"],
    "early_ends": {"2025-07-03": "13:00"},
}


def at(text: str, zone: str = "America/New_York") -> UnixTime:
    return UnixTime(dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


@pytest.mark.parametrize(
    ("when", "open_"),
    [
        ("2025-07-08T09:29:59", False),
        ("2025-07-08T09:30:00", True),
        ("2025-07-08T15:59:59", True),
        ("2025-07-08T16:00:00", False),
        ("2025-07-05T12:00:00", False),  # a Saturday
        ("2025-07-04T12:00:00", False),  # Independence Day
        ("2025-07-03T12:59:59", True),
        ("2025-07-03T13:00:00", False),  # a half day
        ("2025-03-10T09:30:00", True),  # the first Monday of summer time
        ("2025-11-03T09:29:59", False),  # the first Monday of winter time
        ("2025-11-03T09:30:00", True),
    ],
)
def test_the_window_is_open_in_the_session_and_at_no_other_time(when: str, open_: bool) -> None:
    assert (frozen([FreezeWindow(**SESSION)], at(when)) is not None) is open_


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    window = FreezeWindow(
        name="night", zone="Europe/Berlin", start="22:00", end="02:00", days=("fri",)
    )
    for when, open_ in (
        ("2025-07-11T23:00:00", True),
        ("2025-07-12T01:59:00", True),  # Saturday, begun on Friday
        ("2025-07-11T01:00:00", False),  # begun on Thursday
        ("2025-07-12T23:00:00", False),
    ):
        assert (frozen([window], at(when, "Europe/Berlin")) is not None) is open_


def test_of_two_open_windows_the_one_that_ends_last_is_told() -> None:
    late = FreezeWindow(name="late", zone="America/New_York", start="15:00", end="17:00")
    found = frozen([FreezeWindow(**SESSION), late], at("2025-07-08T15:30:00"))
    assert found is not None
    assert (found.name, found.until) == ("late", at("2025-07-08T17:00:00"))
    assert "2025-07-08 17:00 America/New_York" in found.told


@given(st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2035, 1, 1)))
def test_an_open_window_is_closed_at_the_moment_that_it_names(moment: dt.datetime) -> None:
    window = FreezeWindow(**SESSION)
    now = UnixTime(moment.replace(tzinfo=dt.UTC).timestamp())
    found = frozen([window], now)
    local = dt.datetime.fromtimestamp(now, NEW_YORK)
    if found is None:
        weekday = local.weekday() < 5 and local.date() not in window.holidays
        end = window.early_ends.get(local.date(), window.end)
        assert not (weekday and window.start <= local.time() < end)
    else:
        assert now < found.until
        assert frozen([window], found.until) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"zone": "America/Gotham"}, "no such time zone"),
        ({"zone": "../../etc/passwd"}, "no such time zone"),
        ({"start": "9:30"}, "write it quoted"),
        ({"start": 570}, "write it quoted"),
        ({"end": "09:30"}, "the same minute"),
        ({"early_ends": {"2025-07-03": "09:00"}}, "not after"),
        ({"days": []}, "at least 1 item"),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        FreezeWindow(**{**SESSION, **change})
