"""When the session of a member that leaves is empty: unsubscribed, nothing in hand, and quiet for a while."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from config.settings import load_settings
from ingestor.leaving import QUIET_SECONDS, Leaving, LeavingError, may_leave
from ingestor.subscription import Remembered

FILTER = "$share/crew/v1/telemetry/#"


class Story:
    """A member that leaves, its clock, and what it has handed on."""

    def __init__(self) -> None:
        self.now = 100.0
        self.received: list[Any] = []
        self.leaving = Leaving([FILTER], lambda *portion: self.received.append(portion), monotonic=lambda: self.now)

    def unsubscribed(self) -> None:
        asyncio.run(self.leaving.unsubscribed(FILTER))

    def is_over(self, after: float = 0, channel: object | None = "channel", in_hand: int = 0) -> bool:
        self.now += after
        return self.leaving.is_over(channel, in_hand)


@pytest.fixture
def story() -> Story:
    story = Story()
    assert not story.is_over()
    story.unsubscribed()
    return story


def test_it_is_over_once_nothing_has_come_for_a_while(story: Story) -> None:
    assert not story.is_over(QUIET_SECONDS - 1)
    assert story.is_over(1)


def test_as_long_as_a_filter_is_subscribed_it_is_not_over() -> None:
    story = Story()
    assert not story.is_over()
    assert not story.is_over(10 * QUIET_SECONDS)
    story.unsubscribed()
    assert not story.is_over(), "what was on its way to us before may still come"
    assert story.is_over(QUIET_SECONDS)


def test_each_message_is_handed_on_and_waited_for(story: Story) -> None:
    story.now += QUIET_SECONDS - 1
    story.leaving.receive("channel", [])  # type: ignore[arg-type]
    assert story.received == [("channel", [])]
    assert not story.is_over(1)
    assert not story.is_over(QUIET_SECONDS, in_hand=1)
    assert not story.is_over(QUIET_SECONDS - 1)
    assert story.is_over(1)


@pytest.mark.parametrize("meanwhile", [None, "another"])
def test_what_a_lost_connection_had_comes_again_over_the_next(story: Story, meanwhile: str | None) -> None:
    assert not story.is_over(QUIET_SECONDS, channel=meanwhile)
    assert not story.is_over(0, channel="another")
    assert story.is_over(QUIET_SECONDS, channel="another")


def test_a_client_id_that_nobody_has_cannot_leave() -> None:
    settings = load_settings(mqtt_client_id="ingestor-x")
    with pytest.raises(LeavingError, match=r"knows of no ingestor ingestor-x; .* \(known are a, b\)"):
        may_leave(settings, Remembered(filters=[], others=["a", "b"]))


def test_the_last_one_may_not_leave() -> None:
    settings = load_settings(mqtt_client_id="the-last")
    may_leave(settings, Remembered(filters=[FILTER], others=["another"]))
    with pytest.raises(LeavingError, match=r"the-last is the only ingestor .*; start another one before it leaves"):
        may_leave(settings, Remembered(filters=[FILTER], others=[]))
