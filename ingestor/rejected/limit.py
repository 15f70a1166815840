"""How many refused messages are kept a second, so that a flood of nonsense cannot fill the disk.

Nonsense beyond the limit is only counted. A reading that is well formed and still refused is always kept; where
such readings come faster than the limit, reading has to pause, and this says for how long.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# A burst of valid readings that is taken without a pause: what the limit allows in so many seconds.
BURST_SECONDS = 1.0


class KeepLimit:
    """At most `per_second_max` refusals a second; 0 keeps none at all, valid readings neither."""

    def __init__(self, per_second_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second_max = per_second_max
        self._clock = clock
        self._second = 0
        self._kept = 0
        self._paid_until = 0.0

    def take(self) -> bool:
        """Whether one more piece of nonsense may be kept."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._kept = second, 0
        self._kept += 1
        return self._kept <= self._per_second_max

    def take_valid(self) -> bool:
        """Whether a valid reading may be kept: always, unless none is; it makes `pause_seconds` longer."""
        if self._per_second_max == 0:
            return False
        self._paid_until = max(self._paid_until, self._clock()) + 1 / self._per_second_max
        return True

    def give_back(self, count: int) -> None:
        """So many valid readings were taken after all."""
        if count:
            self._paid_until -= count / self._per_second_max if self._per_second_max else 0.0

    @property
    def keeps_nothing(self) -> bool:
        """Whether refusals are only counted."""
        return self._per_second_max == 0

    def pause_seconds(self) -> float:
        """How long reading has to pause before valid readings are within the limit again; 0 or less: not at all."""
        return self._paid_until - self._clock() - BURST_SECONDS
