"""What a person sees of `up`: lines that stay, and below them one live line; plain lines where there is no terminal."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

CLEAR_LINE = "\r\x1b[K"
REDRAW_SECONDS = 1.0
PLAIN_LINE_SECONDS = 10.0


class Screen:
    """Standard output. Raises BrokenPipeError, once, when nobody reads any more."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._redraws = stream.isatty()
        self._period = REDRAW_SECONDS if self._redraws else PLAIN_LINE_SECONDS
        self._due = 0.0
        self._live = ""

    def say(self, text: str) -> None:
        """A line that stays, above the live one."""
        self._write((CLEAR_LINE if self._live else "") + text + "\n" + self._live)

    def show(self, text: str, now: float) -> None:
        """The state at `now`; drawn over the last one on a terminal, else written now and then."""
        if now < self._due:
            return
        self._due = now + self._period
        if self._redraws:
            self._live = text[: shutil.get_terminal_size().columns - 1]
            self._write(CLEAR_LINE + self._live)
        else:
            self._write(text + "\n")

    def end(self) -> None:
        """Leave the live line as it is, and write below it from now on."""
        if self._live:
            self._live = ""
            self._write("\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            # What is still in the stream's buffer goes nowhere from now on, and nothing after this raises again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise
