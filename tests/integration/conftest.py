"""What tests of several parts share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.guarded_broker import GuardedBroker


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Callable[[str, dict[str, str]], GuardedBroker]]:
    """`guarded(lines, files)`: a started broker with these lines in its configuration."""
    with ExitStack() as stack:

        def start(lines: str, files: dict[str, str]) -> GuardedBroker:
            broker = GuardedBroker(tmp_path / "guarded", lines, files)
            broker.start()
            stack.callback(broker.stop)
            return broker

        yield start
