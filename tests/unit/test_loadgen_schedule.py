"""The three paces: evenly spread without a burst of old turns, due by a rate whatever happens, and due at once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.schedule import ClosedLoop, OpenLoop, Schedule


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


def test_an_open_loop_is_due_by_its_rate_alone_and_leaves_nothing_out() -> None:
    pace = OpenLoop(3, 200.0, None, None)
    assert [pace.due(turn) for turn in (0, 1, 200, 1000)] == [0.0, 0.005, 1.0, 5.0]
    assert [pace.point_of(turn) for turn in range(4)] == [0, 1, 2, 0]
    assert pace.left_out(5, 1e6) == 0


@pytest.mark.parametrize(
    ("duration", "turns_max", "turns"),
    [(None, None, None), (1.0, None, 10), (None, 7, 7), (1.0, 7, 7), (1.0, 70, 10), (0.3, None, 3), (0.01, None, 1)],
)
def test_an_open_loop_ends_by_what_comes_first(duration: float | None, turns_max: int | None, turns: int) -> None:
    assert OpenLoop(3, 10.0, duration, turns_max).turns == turns


def test_every_turn_of_a_closed_loop_is_due_at_once() -> None:
    pace = ClosedLoop(3, 2.0, 1000)
    assert {pace.due(turn) for turn in range(10)} == {0.0}
    assert [pace.point_of(turn) for turn in range(4)] == [0, 1, 2, 0]
    assert pace.left_out(999, 1e6) == 0
    assert pace.turns == 1000
    assert ClosedLoop(3, 2.0, None).turns is None
