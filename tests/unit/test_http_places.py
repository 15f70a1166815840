"""Who may stay connected: bounded whatever comes, and a newcomer finds a place while somebody only waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.places import FIRST_WORDS_SECONDS, TURNED_AWAY_MAX, Places
from serving.server import CONNECTIONS_MAX, CONNECTIONS_MIN, connections_max


@dataclass(eq=False)
class Visitor:
    """A connection that remembers whether it had to leave."""

    gone: bool = False

    def leave(self) -> None:
        self.gone = True


def test_who_has_waited_longest_since_its_answer_leaves_for_a_newcomer() -> None:
    places = Places(2)
    first, second, third, fourth = (Visitor() for _ in range(4))
    for visitor in (first, second):
        assert places.enter(visitor, 0)
        places.is_served(visitor)
    places.waits(second)
    places.waits(first)
    assert places.enter(third, 0)
    assert second.gone
    places.left(second)
    assert not first.gone
    places.is_served(first)
    places.is_served(third)
    assert not places.enter(fourth, 0)
    places.left(first)
    assert places.enter(Visitor(), 0)


def test_who_has_only_just_come_may_say_what_it_wants_first() -> None:
    places = Places(1)
    first, second = Visitor(), Visitor()
    assert places.enter(first, 0)
    assert not places.enter(Visitor(), FIRST_WORDS_SECONDS / 2)
    assert not first.gone
    assert places.enter(second, FIRST_WORDS_SECONDS)
    assert first.gone


def test_of_those_that_are_turned_away_the_latest_are_heard() -> None:
    places = Places(1)
    served = Visitor()
    places.enter(served, 0)
    places.is_served(served)
    crowd = [Visitor() for _ in range(TURNED_AWAY_MAX + 2)]
    assert not any(places.enter(each, 0) for each in crowd)
    assert [each.gone for each in crowd] == [True, True] + [False] * TURNED_AWAY_MAX
    assert not served.gone


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["enter", "serve", "wait", "left"]), st.integers(0, 20), st.floats(0, 1))),
)
def test_there_are_never_more_than_there_is_room_for(
    most: int, events: list[Any] | list[tuple[str, int, float]]
) -> None:
    places = Places(most)
    visitors: list[Visitor] = []
    now = 0.0
    for event, number, pause in events:
        now += pause
        visitor = visitors[number % len(visitors)] if visitors else None
        if event == "enter" or visitor is None:
            visitors.append(Visitor())
            places.enter(visitors[-1], now)
        elif event == "serve":
            places.is_served(visitor)
        elif event == "wait":
            places.waits(visitor)
        else:
            places.left(visitor)
            visitors.remove(visitor)
        for each in [each for each in visitors if each.gone]:
            places.left(each)
            visitors.remove(each)
        assert places.connections == len(visitors) <= most + TURNED_AWAY_MAX


def test_a_process_keeps_files_for_itself() -> None:
    assert connections_max(1_024) == 896
    assert connections_max(64) == CONNECTIONS_MIN
    assert connections_max(10**6) == CONNECTIONS_MAX
