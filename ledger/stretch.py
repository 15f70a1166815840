"""What is annulled: a stretch of time of one device; and the words and limits around it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, TypeAlias

from pydantic import StringConstraints

from config.errors import WattlineError
from telemetry.kinds import Kind
from telemetry.readings import told_as

TEXT_CHARACTERS_MAX = 500
TEXT_RULE = f"one line of 1 to {TEXT_CHARACTERS_MAX} characters"
Text: TypeAlias = Annotated[
    str,
    StringConstraints(pattern=rf"^[^\x00-\x20\x7f][^\x00-\x1f\x7f]{{0,{TEXT_CHARACTERS_MAX - 1}}}$"),
    told_as(TEXT_RULE),
]
"""A reason, or somebody's name: one line for people."""

# A month of a reading a minute. Flushes wait meanwhile: 0.03 ms a reading on a busy machine of two cores.
READINGS_MAX = 50_000
# Flushes end within a moment; one that waits for somebody's lock must not hold up the others behind us for longer.
LOCK_TIMEOUT_MS = 2_000


class LedgerError(WattlineError):
    """It cannot be done, and nothing was changed; the message says why, and what to do."""


class NothingThereError(LedgerError):
    """There is no such reading, or no such annulment."""


@dataclass(frozen=True)
class Stretch:
    """[start, end) of one device; both with a time zone."""

    kind: Kind
    device_id: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Change:
    """What it did to readings that left the history, or came back."""

    readings: int
    kwh: float
    """The energy of these readings."""
    hours: int
    """How many hours have another sum now."""
    status_changed: bool
    """Whether the device's newest reading is another one now, or none."""
