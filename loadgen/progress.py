"""The live progress on stderr: one line drawn anew on a terminal, a plain line now and then anywhere else.

It only shows; it counts nothing itself, and it must never hold up a publisher.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from typing import Final, TextIO

from loadgen.counts import Counts

REDRAW_SECONDS: Final = 0.5
PLAIN_LINE_SECONDS: Final = 10.0
# The rate is that of the last few seconds: steady enough to read, quick enough to show a stall.
RATE_SECONDS: Final = 5.0
CLEAR_LINE: Final = "\r\x1b[K"


class Progress:
    """The line, its place on the screen, and what it needs to know for a rate."""

    def __init__(self, counts: Counts, duration_seconds: float | None, stream: TextIO = sys.stderr) -> None:
        self._counts = counts
        self._duration = duration_seconds
        self._stream = stream
        self._redraws = stream.isatty()
        self._period = REDRAW_SECONDS if self._redraws else PLAIN_LINE_SECONDS
        self._started = time.monotonic()
        self._samples: deque[tuple[float, int]] = deque(maxlen=max(1, int(RATE_SECONDS / self._period)))
        self._drawn = False

    async def run(self) -> None:
        """Show the progress until cancelled."""
        self.start()
        try:
            while True:
                await asyncio.sleep(self._period)
                self.show()
        finally:
            self.clear()

    def start(self) -> None:
        """The time counts from here."""
        self._started = time.monotonic()
        self._samples.append((self._started, self._counts.acknowledged))

    def clear(self) -> None:
        """Take the line off the screen, so that something else can be written."""
        if self._drawn:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()
            self._drawn = False

    def show(self) -> None:
        """Write the line as it is now."""
        now = time.monotonic()
        since, acknowledged_then = self._samples[0]
        rate = (self._counts.acknowledged - acknowledged_then) / max(now - since, 1e-9)
        self._samples.append((now, self._counts.acknowledged))
        line = progress_line(self._counts, rate, now - self._started, self._duration)
        if self._redraws:
            self._stream.write(CLEAR_LINE + line)
            self._drawn = True
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def progress_line(counts: Counts, rate: float, elapsed: float, duration: float | None) -> str:
    """The progress in words: times in seconds (`duration` None = endless), `rate` in acknowledgements a second."""
    refused = f", refused {counts.refused.total():,}" if counts.refused else ""
    left = "" if duration is None else f", {max(0.0, duration - elapsed):,.0f} s left"
    return (
        f"loadgen: published {counts.published:,}, acknowledged {counts.acknowledged:,} ({rate:,.0f}/s), "
        f"unacknowledged {counts.unacknowledged:,}{refused}, {elapsed:,.0f} s{left}"
    )
