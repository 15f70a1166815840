"""Waits between attempts: from the least on they double, up to the most, and chance takes up to half away.

What is tried again, and when, is in test_writer.py.
"""

from __future__ import annotations

import pytest

from config.backoff import backoff_seconds


@pytest.mark.parametrize(("failures", "longest"), [(1, 0.1), (2, 0.2), (5, 1.6), (6, 2.0), (10_000, 2.0)])
def test_it_doubles_up_to_the_most(failures: int, longest: float) -> None:
    waits = [backoff_seconds(failures, least=0.1, most=2.0) for _ in range(200)]
    assert longest / 2 <= min(waits) < 0.6 * longest
    assert 0.9 * longest < max(waits) <= longest
