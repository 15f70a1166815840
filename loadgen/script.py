"""What each turn publishes: the messages of one reading, or of the two at a charger. No I/O here.

Three scripts for three questions: the simulated fleet, templates at any rate, templates about the past.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random
from typing import Final, Protocol

from loadgen.fleet import Point
from loadgen.messages import Message, MessageMaker
from loadgen.templates import Templates

BACKFILL_SECONDS: Final = 60


class Script(Protocol):
    """Makes the messages of turns, which come in their order."""

    def messages(self, turn: int, due: float) -> list[Message]: ...


class FleetScript:
    """A turn is a point's: its devices read the time since their last readings."""

    def __init__(
        self,
        points: Sequence[Point],
        interval_seconds: float,
        rng: Random,
        maker: MessageMaker,
    ) -> None:
        self._points = points
        self._interval = interval_seconds
        self._rng = rng
        self._maker = maker

    def messages(self, turn: int, due: float) -> list[Message]:
        """Of all its devices. 11 µs for a charger's two."""
        point = self._points[turn % len(self._points)]
        made: list[Message] = []
        for reading in point.read(_even_now_us(), self._interval, self._rng):
            made += self._maker.messages(reading, due)
        return made


class RateScript:
    """A turn is a device's; no two of the run have the same timestamp, however fast they come."""

    def __init__(self, templates: Templates, maker: MessageMaker) -> None:
        self._templates = templates
        self._maker = maker
        self._last_us = 0

    def messages(self, turn: int, due: float) -> list[Message]:
        """Of one device. 2 µs."""
        now_us = _even_now_us()
        self._last_us = ts_us = now_us if now_us > self._last_us else self._last_us + 2
        return self._maker.messages(self._templates.read(turn, ts_us), due)


class BackfillScript:
    """A turn is a device's; each round is a minute later than the one before, the first one is the oldest."""

    def __init__(self, templates: Templates, from_us: int, maker: MessageMaker) -> None:
        self._templates = templates
        self._from_us = from_us // 2 * 2
        self._maker = maker

    def messages(self, turn: int, due: float) -> list[Message]:
        """Of one device. 2 µs."""
        ts_us = self._from_us + turn // len(self._templates) * BACKFILL_SECONDS * 1_000_000
        return self._maker.messages(self._templates.read(turn, ts_us), due)


def _even_now_us() -> int:
    """Odd timestamps are those of late readings (see messages)."""
    return time.time_ns() // 2000 * 2
