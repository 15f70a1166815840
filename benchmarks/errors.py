"""What ends a benchmark with a line instead of a table."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A run that cannot be measured; the message is for the person at the terminal."""
