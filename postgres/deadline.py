"""A wait that ends: unless somebody says that it goes forward, something is done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self


class Deadline:
    """Calls `on_passed` once, `seconds` after its `with` began or it was last extended, unless that has ended."""

    def __init__(self, seconds: float, on_passed: Callable[[], None]) -> None:
        self.passed = False
        self._seconds = seconds
        self._on_passed = on_passed

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._pass)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def extend(self) -> None:
        """There was an answer: the time begins again."""
        if not self.passed:
            self._timer.cancel()
            self.__enter__()

    def _pass(self) -> None:
        self.passed = True
        self._on_passed()
