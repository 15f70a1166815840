"""The log beside the live progress, as one person reads it.

A broker that goes away is one event, though each of the fleet's connections says so; and a log line must not end up in
the middle of the progress line. It never holds back a text that was not just shown.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import Final

from loadgen.progress import Progress

# Longer than the connections of a fleet need to notice the same event, shorter than the link's own repetitions.
REPEAT_SECONDS: Final = 20.0
REMEMBERED_MAX: Final = 100


class BesideProgress(logging.Filter):
    """Takes the progress line off the screen before each record, and drops records whose text was just shown."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._shown: OrderedDict[str, float] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Part of logging.Filter."""
        text, now = record.getMessage(), time.monotonic()
        if now - self._shown.get(text, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        self._shown[text] = now
        if len(self._shown) > REMEMBERED_MAX:
            self._shown.popitem(last=False)
        self._progress.clear()
        return True


def install(progress: Progress, log_level: str) -> None:
    """Put it before every handler of this process."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(BesideProgress(progress))
    if log_level != "DEBUG":
        # That each single connection is up again; the progress line shows it.
        logging.getLogger("telemetry").setLevel(logging.WARNING)
