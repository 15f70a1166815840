"""Says a thing that happens again and again once a minute, with how often it happened in between."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

SECONDS = 60.0


class Seldom:
    """By subject: whether it is time for a line. It remembers some subjects only, and forgets the oldest."""

    SUBJECTS_MAX = 100

    def __init__(self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._said: dict[str, float] = {}
        self._since: Counter[str] = Counter()

    def due(self, subject: str, count: int = 1) -> int:
        """0 while the last line is younger than a minute; else how many there were since it, with these `count`."""
        now = self._clock()
        self._since[subject] += count
        said = self._said.get(subject)
        if said is not None and now - said < self._seconds:
            return 0
        if said is None and len(self._said) >= self.SUBJECTS_MAX:
            oldest = next(iter(self._said))
            del self._said[oldest], self._since[oldest]
        self._said[subject] = now
        return self._since.pop(subject)
