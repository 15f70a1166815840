"""One line of a terminal that is drawn over and over; plain lines now and then where there is no terminal."""

from __future__ import annotations

import shutil
from typing import TextIO

CLEAR_LINE = "\r\x1b[K"
PLAIN_LINE_SECONDS = 10.0


class LiveLine:
    """The line, and whether it is on the screen now."""

    def __init__(self, stream: TextIO, redraw_seconds: float) -> None:
        """`redraw_seconds` is how often it is worth drawing on a terminal."""
        self._stream = stream
        self._redraws = stream.isatty()
        self.period_seconds = redraw_seconds if self._redraws else PLAIN_LINE_SECONDS
        """How often to `show` something."""
        self._drawn = ""

    def show(self, text: str) -> None:
        """Draw it over what was there."""
        if self._redraws:
            # Cut where the terminal ends: a line that wraps cannot be redrawn.
            self._drawn = text[: shutil.get_terminal_size().columns - 1]
            self._write(CLEAR_LINE + self._drawn)
        else:
            self._write(text + "\n")

    def say(self, text: str) -> None:
        """A line that stays, above the live one."""
        self._write((CLEAR_LINE if self._drawn else "") + text + "\n" + self._drawn)

    def clear(self) -> None:
        """Take it off the screen, so that something else can be written there."""
        self._end(CLEAR_LINE)

    def leave(self) -> None:
        """Let it stand as it is; what comes next is written below it."""
        self._end("\n")

    def _end(self, text: str) -> None:
        if self._drawn:
            self._drawn = ""
            self._write(text)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
