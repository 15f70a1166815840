"""Waiting for a condition under a deadline: the only way in which a test here waits."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

INTERVAL_SECONDS = 0.02
PATIENCE_SECONDS = 90.0  # what takes a moment takes long beside a busy process; only a test that fails waits so long


def wait_until(condition: Callable[[], T | None], timeout: float = PATIENCE_SECONDS, what: str = "the condition") -> T:
    """The first true value of `condition()`; AssertionError naming `what`, and the last value, past the deadline."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last value: {value!r}")
        time.sleep(INTERVAL_SECONDS)
    return value


@overload
async def wait_until_async(
    condition: Callable[[], Awaitable[T]], timeout: float = PATIENCE_SECONDS, what: str = "the condition"
) -> T: ...
@overload
async def wait_until_async(
    condition: Callable[[], T], timeout: float = PATIENCE_SECONDS, what: str = "the condition"
) -> T: ...
async def wait_until_async(
    condition: Callable[[], Any],
    timeout: float = PATIENCE_SECONDS,
    what: str = "the condition",
) -> Any:
    """`wait_until` inside an event loop; `condition` may also be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        value = await result if inspect.isawaitable(result) else result
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last value: {value!r}")
        await asyncio.sleep(INTERVAL_SECONDS)
