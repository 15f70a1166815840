"""What can go wrong around the programs that wattline starts: one error, whose text is one line for a person."""

from __future__ import annotations

from config.errors import WattlineError


class EmbeddedError(WattlineError):
    """A server or command could not be found, started or kept running; the message says what to do about it."""
