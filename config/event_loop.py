"""The event loop: uvloop where it exists (a third less CPU a message), asyncio's own elsewhere; and its signals."""

from __future__ import annotations

import asyncio
import importlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _fastest() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:  # Windows
        return asyncio.new_event_loop
    return factory


loop_factory = _fastest()


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and Ctrl-C call `stop` in the running loop, for as long as the context lasts."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
