"""When each charging point reads: evenly spread over the interval, round after round. No clock and no waiting in it.

A turn is one point's reading; turn t belongs to point t mod points. Who falls behind by more than an interval leaves
whole rounds out rather than send a burst of old turns: a device that was held up reads once, about all of that time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        """When a turn is due."""
        return turn * self.interval_seconds / self.points

    def point_of(self, turn: int) -> int:
        """Whose turn it is: an index into the fleet."""
        return turn % self.points

    def left_out(self, turn: int, elapsed: float) -> int:
        """How many turns to leave out when `turn` comes up at `elapsed`: whole rounds, 0 for who is in time."""
        rounds_late = int(max(0.0, elapsed - self.due(turn)) / self.interval_seconds)
        late = rounds_late * self.points
        return late if self.turns is None else min(late, self.turns - turn)
