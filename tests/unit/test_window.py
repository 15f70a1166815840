"""The broker's window: learned from what stands unacknowledged, forgotten as soon as more comes, never in the way."""

from __future__ import annotations

import random

import pytest

from ingestor.window import IDLE_SECONDS, REFILL_SECONDS, SURE_TIMES, BrokerWindow

INTERVAL = 0.25


class Scene:
    """A window with a clock: messages come, a batch is due, it is acknowledged."""

    def __init__(self, asked: int = 1000) -> None:
        self.window = BrokerWindow(asked)
        self.now = 100.0

    def round(self, messages: int, *, after: float = 0.003, waits: float = INTERVAL) -> None:
        """So many messages, `after` seconds after the acknowledgement before; written when full, or when due."""
        self.now += after
        self.window.received(messages, self.now)
        if not self.window.is_full:
            self.now += waits
            self.window.waited(INTERVAL, self.now)
        self.now += 0.005
        self.window.acknowledged(messages, self.now)


@pytest.mark.parametrize("size", [1, 10, 20, 32, 50, 999])
def test_a_number_that_stands_three_times_is_the_window(size: int) -> None:
    scene = Scene()
    for _ in range(3):
        assert scene.window.messages == 1000
        scene.round(size)
    assert scene.window.messages == size
    scene.window.received(size - 1, scene.now)
    assert not scene.window.is_full
    scene.window.received(1, scene.now)
    assert scene.window.is_full


def test_one_message_more_and_it_is_forgotten() -> None:
    scene = Scene()
    for _ in range(3):
        scene.round(50)
    scene.window.received(51, scene.now)
    assert scene.window.messages == 1000
    assert not scene.window.is_full


def test_a_window_that_shrinks_or_grows_is_learned_again() -> None:
    scene = Scene()
    for size in (50, 20, 32, 10):
        for _ in range(4):
            scene.round(size)
        assert scene.window.messages == size


def test_what_we_asked_for_is_a_window_from_the_start() -> None:
    window = BrokerWindow(10)
    window.received(10, 1.0)
    assert window.is_full
    assert not window.is_exceeded
    window.received(1, 1.0)
    assert window.is_exceeded


def test_devices_in_step_are_no_window() -> None:
    """One that reports every second: its next message comes long after the acknowledgement of the last."""
    scene = Scene()
    for _ in range(50):
        scene.round(1, after=1.0 - INTERVAL)
    assert scene.window.learned is None


def test_traffic_that_does_not_pause_is_no_window() -> None:
    scene = Scene()
    for _ in range(50):
        scene.round(50, waits=IDLE_SECONDS / 2)
    assert scene.window.learned is None


def test_ordinary_traffic_never_looks_like_a_window() -> None:
    chance = random.Random(7)
    scene = Scene(asked=65534)
    window = scene.window
    for _ in range(2000):  # 333 messages/s, as they come
        due, count = scene.now + INTERVAL, 0
        while scene.now < due:
            scene.now += chance.expovariate(333)
            window.received(1, scene.now)
            count += 1
        window.waited(INTERVAL, scene.now)
        window.acknowledged(count, scene.now)
        assert window.learned is None


def test_a_new_connection_starts_counting_at_zero() -> None:
    window = BrokerWindow(10)
    window.received(10, 1.0)
    window.connected()
    assert not window.is_full
    window.received(10, 1.0)
    assert not window.is_exceeded


def test_it_is_told_once_it_has_proved_itself() -> None:
    scene = Scene()
    for _ in range(2 + SURE_TIMES):
        assert not scene.window.is_sure
        scene.round(50)
    assert scene.window.is_sure


def test_messages_with_qos_0_say_nothing() -> None:
    scene = Scene()
    for _ in range(3):
        scene.now += 0.003
        scene.window.received(50, scene.now)
        scene.now += INTERVAL
        scene.window.received(0, scene.now)  # these alone go on coming
        scene.window.waited(INTERVAL, scene.now)
        scene.window.acknowledged(50, scene.now)
    assert scene.window.messages == 50


def test_a_far_broker_is_followed_too() -> None:
    scene = Scene()
    for _ in range(4):
        scene.round(50, after=REFILL_SECONDS * 0.9)
    assert scene.window.messages == 50
