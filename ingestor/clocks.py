"""Our clock against the database's: no single one of them decides what is refused or deleted.

They are compared at each look (`ingestor.clock_watch`). Between looks a jump of our own clock shows against the
monotonic one, for the price of reading both. Nothing here does any I/O but the one statement of `compare`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from config.errors import WattlineError

# Machines that ask a time server are within milliseconds; from here on one of the two does not.
WARN_SECONDS = 60.0
# Readings are judged with this much slack at least, however small MAX_CLOCK_SKEW_SECONDS is.
FAULT_SECONDS_MIN = 30.0
# A clock that a time server corrects moves by milliseconds between two looks; this one was set.
JUMP_SECONDS = 2.0
# An answer that took longer says too little about the time; a server under load is asked again.
LOOKS_MAX = 3
GOOD_ROUND_TRIP_SECONDS = 1.0

_CLOCK: LiteralString = "SELECT extract(epoch FROM clock_timestamp())::float8"


async def database_clock(connection: AsyncConnection[TupleRow]) -> float:
    """What it shows, in seconds since 1970. Raises psycopg.Error."""
    (seconds,) = await (await connection.execute(_CLOCK)).fetchone() or (0.0,)
    return float(seconds)


class ClockDoubtError(WattlineError):
    """The clocks disagree, so nothing may be deleted by time; the message is one line for a person."""


class Clocks:
    """What is known about the two clocks."""

    def __init__(
        self,
        max_skew_seconds: float,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` is our clock, in seconds since 1970."""
        self.now = now
        self._monotonic = monotonic
        self.fault_seconds = max(FAULT_SECONDS_MIN, max_skew_seconds / 2)
        self.offset_seconds: float | None = None
        """Ours minus the database's, by the latest look; None before the first."""
        self._anchor: float | None = None

    async def compare(self, connection: AsyncConnection[TupleRow]) -> None:
        """Look at both. Raises psycopg.Error."""
        for _ in range(LOOKS_MAX):
            started, before = self._monotonic(), self.now()
            theirs = await database_clock(connection)
            took = self._monotonic() - started
            if took <= GOOD_ROUND_TRIP_SECONDS:
                break
        self.judge(before + took / 2 - theirs, uncertainty=took / 2)

    def judge(self, offset_seconds: float, uncertainty: float = 0.0) -> None:
        """Take a measured difference; what the round trip may account for speaks for the clocks."""
        if abs(offset_seconds) <= uncertainty:
            offset_seconds = 0.0
        else:
            offset_seconds -= uncertainty if offset_seconds > 0 else -uncertainty
        self.offset_seconds = offset_seconds
        self._anchor = self.now() - self._monotonic()

    def jumped(self) -> bool:
        """Whether our clock was set since the latest look; also before the first one."""
        return self._anchor is None or abs(self.now() - self._monotonic() - self._anchor) > JUMP_SECONDS

    def problem(self) -> str | None:
        """Why no reading may be judged by our clock; None while it may."""
        if self.offset_seconds is None or abs(self.offset_seconds) <= self.fault_seconds:
            return None
        return f"{self._disagreement()}, and readings are judged by it: reading pauses until the clocks agree"

    def warning(self) -> str | None:
        """A disagreement that a person should know of, or None."""
        if self.offset_seconds is None or abs(self.offset_seconds) <= min(WARN_SECONDS, self.fault_seconds):
            return None
        return f"{self._disagreement()}: nothing is deleted by time until they agree"

    def earlier(self) -> datetime:
        """The earlier of the two clocks. Raises ClockDoubtError where they disagree, so that nothing is deleted."""
        warning = self.warning()
        if warning is not None:
            raise ClockDoubtError(warning)
        ahead = max(0.0, self.offset_seconds or 0.0)
        return datetime.fromtimestamp(self.now(), UTC) - timedelta(seconds=ahead)

    def _disagreement(self) -> str:
        offset = self.offset_seconds or 0.0
        side = "ahead of" if offset > 0 else "behind"
        ours = f"{datetime.fromtimestamp(self.now(), UTC):%Y-%m-%dT%H:%M:%SZ}"
        return (
            f"our clock ({ours}) is {abs(offset):.0f} s {side} the "
            "database's; set the wrong one right (timedatectl shows whether a machine asks a time server)"
        )
