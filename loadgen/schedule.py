"""When each turn is due, in the three ways to load a system. No clock and no waiting in it.

- `Schedule`: a fleet. A turn is one charging point's reading, evenly spread over the interval, round after round; turn
  t belongs to point t mod points. A run that falls behind by more than an interval leaves whole rounds out, instead of
  a burst of old turns: a device that was held up reads once, about all of that time.
- `OpenLoop`: a rate. Turn t is due at t / rate whatever became of the turns before, and none is left out: a run that
  falls behind sends late, and the latency, which counts from the due time, shows it (no coordinated omission).
- `ClosedLoop`: no pace but the broker's own. Every turn is due at once; acknowledgements make room for the next ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

# 0.1 + 0.2 seconds are three turns of a tenth, not four.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Schedule:
    """All times in seconds since the start."""

    points: int
    interval_seconds: float
    duration_seconds: float | None
    """None = for ever."""

    @property
    def turns(self) -> int | None:
        """How many turns the duration has room for: those due before its end."""
        if self.duration_seconds is None:
            return None
        return max(1, math.ceil(self.duration_seconds * self.points / self.interval_seconds - ROUNDING))

    def due(self, turn: int) -> float:
        return turn * self.interval_seconds / self.points

    def point_of(self, turn: int) -> int:
        """Whose turn it is: an index into the fleet."""
        return turn % self.points

    def left_out(self, turn: int, elapsed: float) -> int:
        """How many turns to leave out when `turn` comes up at `elapsed`: whole rounds, 0 for who is in time."""
        rounds_late = int(max(0.0, elapsed - self.due(turn)) / self.interval_seconds)
        late = rounds_late * self.points
        return late if self.turns is None else min(late, self.turns - turn)


@dataclass(frozen=True)
class OpenLoop:
    """A turn is one reading."""

    points: int
    per_second: float
    duration_seconds: float | None
    turns_max: int | None
    """None = only the duration ends it."""

    @property
    def turns(self) -> int | None:
        """How many turns there are: those due before the end of the duration, at most `turns_max`."""
        limits = [] if self.turns_max is None else [self.turns_max]
        if self.duration_seconds is not None:
            limits.append(max(1, math.ceil(self.duration_seconds * self.per_second - ROUNDING)))
        return min(limits, default=None)

    def due(self, turn: int) -> float:
        return turn / self.per_second

    def point_of(self, turn: int) -> int:
        return turn % self.points

    def left_out(self, _turn: int, _elapsed: float) -> int:
        return 0


@dataclass(frozen=True)
class ClosedLoop:
    """A turn is one reading."""

    points: int
    duration_seconds: float | None
    turns_max: int | None

    @property
    def turns(self) -> int | None:
        """How many turns there are, unless the duration ends first."""
        return self.turns_max

    def due(self, _turn: int) -> float:
        return 0.0

    def point_of(self, turn: int) -> int:
        return turn % self.points

    def left_out(self, _turn: int, _elapsed: float) -> int:
        return 0


Pace: TypeAlias = Schedule | OpenLoop | ClosedLoop
