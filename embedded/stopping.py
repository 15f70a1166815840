"""Ctrl-C, SIGTERM and a closed terminal: noticed at once, acted upon where the code says that it can.

Nothing is interrupted half-way: a signal only sets a flag, and the next `pause` raises StopRequested. A second signal
is for people who will not wait.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType


class StopRequested(Exception):  # noqa: N818 - not an error
    """Somebody wants us to end."""


class Stopping:
    """The flag, and the waiting that looks at it."""

    def __init__(self, when_impatient: Callable[[], None]) -> None:
        """`when_impatient` is called, inside the signal handler, at each signal after the first."""
        self.requested = False
        self._when_impatient = when_impatient

    def listen(self) -> None:
        """Take the signals over. SIGINT also where a shell that started us with `&` had it ignored."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup means it
            signal.signal(signal.SIGHUP, self._on_signal)

    def pause(self, seconds: float) -> None:
        """Sleep; raises StopRequested when asked to stop, before or meanwhile."""
        if not self.requested:
            time.sleep(seconds)
        if self.requested:
            raise StopRequested

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            self._when_impatient()
        self.requested = True
