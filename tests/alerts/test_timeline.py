"""The schedule does not drift, and no step of the wall clock reaches a stamp."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.alerts.timeline import Timeline
from agent.units import Seconds
from tests.faults.clock import FakeClock

T0 = 1_750_000_000.0


def test_slow_ticks_do_not_move_the_ones_after_them() -> None:
    clock = FakeClock(T0)
    line = Timeline(clock, Seconds(1.0))
    starts = []
    for busy in (0.2, 0.9, 0.0, 0.5):
        starts.append(line.stamp() - T0)
        clock.tick(busy)
        wait, skipped = line.advance()
        assert skipped == 0
        clock.tick(wait)
    assert starts == [0.0, 1.0, 2.0, 3.0]


def test_a_tick_longer_than_the_interval_skips_what_it_covers_and_says_how_many() -> None:
    clock = FakeClock(T0)
    line = Timeline(clock, Seconds(1.0))
    clock.tick(3.4)
    wait, skipped = line.advance()
    assert (round(wait, 6), skipped) == (0.0, 2)
    assert line.stamp() == T0 + 3.4  # far from its place: stamped with what it is
    wait, skipped = line.advance()
    assert (round(wait, 6), skipped) == (0.6, 0)


def test_a_tick_that_starts_a_little_late_is_stamped_with_its_place() -> None:
    clock = FakeClock(T0)
    line = Timeline(clock, Seconds(1.0))
    clock.tick(line.advance()[0] + 0.04)
    assert line.stamp() == T0 + 1.0
    clock.tick(line.advance()[0] + 0.2)
    assert line.stamp() == T0 + 2.2


def test_a_step_of_the_wall_clock_moves_no_stamp() -> None:
    clock = FakeClock(T0)
    line = Timeline(clock, Seconds(1.0))
    for step in (7200.0, -86400.0):
        clock.step_wall(step)
        before = line.now()
        clock.tick(line.advance()[0])
        assert line.now() - before == 1.0


@given(st.lists(st.floats(0.0, 5.0), max_size=30))
def test_stamps_only_go_forward_and_ticks_and_skips_cover_the_time(busy: list[float]) -> None:
    clock = FakeClock(T0)
    line = Timeline(clock, Seconds(1.0))
    last, counted = line.stamp(), 0
    for duration in busy:
        clock.tick(duration)
        wait, skipped = line.advance()
        clock.tick(wait)
        stamp = line.stamp()
        assert stamp > last - 0.0011 or duration == 0.0
        last = stamp
        counted += 1 + skipped
        assert counted <= line.now() - T0 + 0.002 < counted + 1.01
