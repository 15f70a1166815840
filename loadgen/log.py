"""The log beside the live progress, as one person reads it.

A broker that goes away is one event, though each of the fleet's connections says so; and a log line must not end up in
the middle of the progress line. It never holds back a text that was not just shown.
"""

from __future__ import annotations

import logging
from typing import Final

from config.seldom import Seldom
from loadgen.progress import Progress

# Longer than the connections of a fleet need to notice the same event, shorter than the link's own repetitions.
REPEAT_SECONDS: Final = 20.0


class BesideProgress(logging.Filter):
    """Takes the progress line off the screen before each record, and drops records whose text was just shown."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._shown = Seldom(REPEAT_SECONDS)

    def filter(self, record: logging.LogRecord) -> bool:
        if not self._shown.due(record.getMessage()):
            return False
        self._progress.clear()
        return True


def install(progress: Progress) -> None:
    """Put it before every handler of this process."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(BesideProgress(progress))
