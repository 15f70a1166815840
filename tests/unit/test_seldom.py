"""When a line is worth writing: once for a state that lasts, once a minute for events in masses."""

from __future__ import annotations

from config.seldom import Once, Seldom


def test_what_happens_again_and_again_is_said_once_a_minute() -> None:
    now = 0.0
    seldom = Seldom(clock=lambda: now)
    assert [seldom.due("a", 2), seldom.due("a", 3), seldom.due("b")] == [2, 0, 1]
    now = 60.0
    assert seldom.due("a") == 4


def test_a_flood_of_subjects_takes_no_more_memory_than_a_hundred() -> None:
    seldom = Seldom(clock=lambda: 0.0)
    for number in range(Seldom.SUBJECTS_MAX + 1):
        assert seldom.due(str(number)) == 1
    assert seldom.due(str(Seldom.SUBJECTS_MAX)) == 0
    assert seldom.due("0") == 1  # the oldest was forgotten


def test_a_state_that_lasts_is_said_once_and_again_when_it_changes_or_comes_back() -> None:
    once = Once()
    assert [once.is_new("away"), once.is_new("away"), once.is_new("full"), once.is_new("away")] == [
        True,
        False,
        True,
        True,
    ]
    once.forget()
    assert once.is_new("away")


def test_the_same_state_is_said_again_after_a_while() -> None:
    now = 0.0
    once = Once(20.0, clock=lambda: now)
    assert once.is_new("away")
    now = 20.0
    assert not once.is_new("away")
    now = 20.1
    assert once.is_new("away")
    now = 30.0
    assert not once.is_new("away")


def test_what_is_taken_for_granted_is_not_said_first() -> None:
    once = Once(said="well")
    assert [once.is_new("well"), once.is_new("away"), once.is_new("well")] == [False, True, True]
