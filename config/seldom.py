"""When a line that could be written again and again is worth writing: two rules, for every room.

`Once` is for a state that lasts (the broker is away): a line when it changes. `Seldom` is for events that come in
masses (a message is refused): a line a minute, with how many there were.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

SECONDS = 60.0


class Once:
    """Whether a text is news: another one than last time, or the same one after a while."""

    def __init__(
        self, again_seconds: float = math.inf, *, said: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`again_seconds`: after so long the same text is news again. `said`: what everybody takes for granted."""
        self._again_seconds = again_seconds
        self._clock = clock
        self._last = None if said is None else (said, clock())

    def is_new(self, text: str) -> bool:
        """Whether to say it now; it counts as said then."""
        now = self._clock()
        if self._last is not None and self._last[0] == text and now - self._last[1] <= self._again_seconds:
            return False
        self._last = text, now
        return True

    def forget(self) -> None:
        """What was told is over, so that the same text is news when it comes again."""
        self._last = None


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
