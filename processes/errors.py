"""What can go wrong around the programs that wattline starts: one error, whose text is one line for a person."""

from __future__ import annotations

from config.errors import WattlineError


class ProcessError(WattlineError):
    """A program could not be started, or did not become ready; the message says what to do about it."""
