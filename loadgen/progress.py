"""The live progress on stderr.

It only shows; it counts nothing itself, and it must never hold up a publisher.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from typing import Final, TextIO

from config.live_line import LiveLine
from loadgen.counts import Counts

REDRAW_SECONDS: Final = 0.5
# The rate is that of the last few seconds: steady enough to read, quick enough to show a stall.
RATE_SECONDS: Final = 5.0
BAR_CELLS: Final = 20


class Progress:
    """The line, and what it needs to know for a rate."""

    def __init__(
        self,
        counts: Counts,
        duration_seconds: float | None,
        stream: TextIO | None = None,
        readings_max: int | None = None,
    ) -> None:
        stream = stream or sys.stderr
        self._counts = counts
        self._duration = duration_seconds
        self._readings_max = readings_max
        self._live = LiveLine(stream, REDRAW_SECONDS)
        self._is_terminal = stream.isatty()
        self._started = time.monotonic()
        self._samples: deque[tuple[float, int]] = deque(maxlen=max(1, int(RATE_SECONDS / self._live.period_seconds)))

    async def run(self) -> None:
        self.start()
        try:
            while True:
                await asyncio.sleep(self._live.period_seconds)
                self.show()
        finally:
            self.clear()

    def start(self) -> None:
        """The time counts from here."""
        self._started = time.monotonic()
        self._samples.append((self._started, self._counts.acknowledged))

    def clear(self) -> None:
        """Take the line off the screen, so that something else can be written."""
        self._live.clear()

    def show(self) -> None:
        now = time.monotonic()
        since, acknowledged_then = self._samples[0]
        rate = (self._counts.acknowledged - acknowledged_then) / max(now - since, 1e-9)
        self._samples.append((now, self._counts.acknowledged))
        elapsed = now - self._started
        share, left = forecast(self._counts, rate, elapsed, self._duration, self._readings_max)
        line = progress_line(self._counts, rate, elapsed, None if left is None else elapsed + left)
        self._live.show((bar(share) if self._is_terminal else "") + line)


def forecast(
    counts: Counts, rate: float, elapsed: float, duration: float | None, readings_max: int | None
) -> tuple[float | None, float | None]:
    """The share done (0 to 1) and the seconds left, by the clock or by the readings, whichever ends first; None where
    nobody can know.
    """
    shares, lefts = [], []
    if duration is not None:
        shares.append(elapsed / duration)
        lefts.append(max(0.0, duration - elapsed))
    if readings_max is not None:
        answered = counts.acknowledged + counts.refused.total()
        shares.append(answered / readings_max)
        if rate > 0:
            lefts.append(max(0, readings_max - answered) / rate)
    share = max(shares, default=None)
    return None if share is None else min(1.0, share), min(lefts, default=None)


def bar(share: float | None) -> str:
    """The share as a picture; nothing for a run without an end."""
    if share is None:
        return ""
    done = int(share * BAR_CELLS)
    return f"[{'#' * done}{'.' * (BAR_CELLS - done)}] {share:4.0%} "


def progress_line(counts: Counts, rate: float, elapsed: float, duration: float | None) -> str:
    """The progress in words: times in seconds (`duration` None = endless), `rate` in acknowledgements a second."""
    refused = f", refused {counts.refused.total():,}" if counts.refused else ""
    left = "" if duration is None else f", {max(0.0, duration - elapsed):,.0f} s left"
    return (
        f"loadgen: published {counts.published:,}, acknowledged {counts.acknowledged:,} ({rate:,.0f}/s), "
        f"unacknowledged {counts.unacknowledged:,}{refused}, {elapsed:,.0f} s{left}"
    )
