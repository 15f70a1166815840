"""What ends a benchmark with a line instead of a table."""

from __future__ import annotations

from config.errors import WattlineError


class BenchmarkError(WattlineError):
    """A run that cannot be measured; the message is for the person at the terminal."""
