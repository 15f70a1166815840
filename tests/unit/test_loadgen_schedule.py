"""The schedule: evenly spread, and no burst of old turns after a stall."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.schedule import Schedule


def test_a_round_is_spread_over_the_interval() -> None:
    schedule = Schedule(4, 2.0, None)
    assert [schedule.due(turn) for turn in range(5)] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert [schedule.point_of(turn) for turn in range(5)] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize(
    ("points", "interval", "duration", "turns"),
    [(10, 1.0, 5.0, 50), (1, 0.1, 0.3, 3), (100, 5.0, 2.0, 40), (3, 1.0, 0.5, 2), (1, 60.0, 1.0, 1)],
)
def test_turns_are_those_that_are_due_before_the_end(points: int, interval: float, duration: float, turns: int) -> None:
    assert Schedule(points, interval, duration).turns == turns


def test_an_endless_schedule_has_no_last_turn() -> None:
    assert Schedule(10, 1.0, None).turns is None


@given(
    st.integers(1, 1000),
    st.floats(0.1, 100),
    st.none() | st.floats(0.1, 1000),
    st.integers(0, 5000),
    st.floats(0, 10_000),
)
def test_what_is_left_out_is_whole_rounds_and_no_more_than_needed(
    points: int, interval: float, duration: float | None, turn: int, lateness: float
) -> None:
    schedule = Schedule(points, interval, duration)
    if schedule.turns is not None:
        turn %= schedule.turns
    elapsed = schedule.due(turn) + lateness
    left_out = schedule.left_out(turn, elapsed)
    if schedule.turns is not None and turn + left_out == schedule.turns:
        return
    assert left_out % points == 0
    assert left_out // points in (math.floor(lateness / interval), math.floor(lateness / interval) - 1)


def test_who_is_in_time_or_early_leaves_nothing_out() -> None:
    schedule = Schedule(10, 1.0, None)
    assert schedule.left_out(25, 2.5) == 0
    assert schedule.left_out(25, 3.4) == 0
    assert schedule.left_out(25, 0.0) == 0
    assert schedule.left_out(25, 5.6) == 30


def test_nothing_after_the_end_is_left_out() -> None:
    assert Schedule(10, 1.0, 3.0).left_out(25, 100.0) == 5
