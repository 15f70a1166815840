"""A wait that ends: unless somebody says that it goes forward, something is done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `on_passed` once, `seconds` after it was made or last extended."""

    def __init__(self, seconds: float, on_passed: Callable[[], None]) -> None:
        self.seconds = seconds
        self.passed = False
        self._on_passed = on_passed
        self._timer = asyncio.get_running_loop().call_later(seconds, self._pass)

    def extend(self) -> None:
        """There was an answer: the time begins again."""
        if not self.passed:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self._pass)

    def cancel(self) -> None:
        """It is over."""
        self._timer.cancel()

    def _pass(self) -> None:
        self.passed = True
        self._on_passed()
