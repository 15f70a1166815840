"""What can go wrong around the servers that `wattline up` starts: one error, whose text is one line for a person."""

from __future__ import annotations

from processes.errors import ProcessError


class EmbeddedError(ProcessError):
    """A server could not be found, started or kept running; the message says what to do about it."""
