"""The rules about two clocks, on clocks of the test's own."""

from __future__ import annotations

import pytest

from ingestor.clocks import WARN_SECONDS, ClockDoubtError, Clocks

HOUR = 3600.0


class Hands:
    """A wall clock and a monotonic one."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_770_000_000.0, 50.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


def clocks_of(hands: Hands, max_skew_seconds: float = 300) -> Clocks:
    return Clocks(max_skew_seconds, now=lambda: hands.wall, monotonic=lambda: hands.monotonic)


@pytest.mark.parametrize(
    ("max_skew", "offset", "warned", "fault"),
    [
        (300, 0, False, False),
        (300, 60, False, False),
        (300, -61, True, False),
        (300, 150, True, False),
        (300, 151, True, True),
        (300, -HOUR, True, True),
        (0, 29, False, False),
        (0, -31, True, True),
        (86_400, 43_000, True, False),
        (86_400, 43_201, True, True),
    ],
)
def test_what_a_disagreement_means(hands: Hands, max_skew: float, offset: float, warned: bool, fault: bool) -> None:
    clocks = clocks_of(hands, max_skew)
    clocks.judge(offset)
    assert (clocks.warning() is not None) == warned
    assert (clocks.problem() is not None) == fault
    if warned:
        with pytest.raises(ClockDoubtError, match=f"{abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'}"):
            clocks.earlier()


def test_the_earlier_clock_counts(hands: Hands) -> None:
    clocks = clocks_of(hands)
    clocks.judge(40.0)
    assert clocks.earlier().timestamp() == hands.wall - 40
    clocks.judge(-40.0)
    assert clocks.earlier().timestamp() == hands.wall


def test_a_slow_answer_is_no_disagreement(hands: Hands) -> None:
    clocks = clocks_of(hands)
    clocks.judge(WARN_SECONDS + 5, uncertainty=10)
    assert clocks.warning() is None
    clocks.judge(-5, uncertainty=10)
    assert clocks.offset_seconds == 0


def test_a_clock_that_is_set_shows_before_the_next_look(hands: Hands) -> None:
    clocks = clocks_of(hands)
    assert clocks.jumped(), "nobody has looked yet"
    clocks.judge(0)
    hands.passes(100_000)
    assert not clocks.jumped()
    hands.wall -= HOUR
    assert clocks.jumped()
    hands.wall += HOUR
    assert not clocks.jumped()
    hands.wall -= HOUR
    clocks.judge(-HOUR)
    assert not clocks.jumped(), "this has been looked at"
