"""What a person sees of `up`: lines that stay, and below them one live line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from config.live_line import LiveLine

REDRAW_SECONDS = 1.0


class Screen:
    """Standard output. Raises BrokenPipeError, once, when nobody reads any more."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._live = LiveLine(stream, REDRAW_SECONDS)
        self._due = 0.0

    def say(self, text: str) -> None:
        """A line that stays, above the live one."""
        with self._read_by_somebody():
            self._live.say(text)

    def show(self, text: str, now: float) -> None:
        """The state at `now`; drawn over the last one on a terminal, else written now and then."""
        if now >= self._due:
            self._due = now + self._live.period_seconds
            with self._read_by_somebody():
                self._live.show(text)

    def end(self) -> None:
        """Leave the live line as it is, and write below it from now on."""
        with self._read_by_somebody():
            self._live.leave()

    @contextmanager
    def _read_by_somebody(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # What is still in the stream's buffer goes nowhere from now on, and nothing after this raises again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise
