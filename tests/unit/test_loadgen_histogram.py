"""The histogram: less than 1 % off, whatever the durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.histogram import MICROSECONDS_MAX, Histogram, bucket_of, middle_of


@given(st.integers(0, MICROSECONDS_MAX))
def test_a_bucket_is_less_than_one_percent_wide(microseconds: int) -> None:
    assert middle_of(bucket_of(microseconds)) == pytest.approx(microseconds, rel=0.01)


@given(st.lists(st.integers(0, 10**9), min_size=1), st.sampled_from([0.5, 0.99, 1.0]))
def test_quantiles_are_those_of_the_sorted_list(durations: list[int], share: float) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration / 1e6)
    exact = sorted(durations)[max(0, -int(-share * len(durations) // 1) - 1)]
    assert histogram.quantile(share) * 1e6 == pytest.approx(exact, rel=0.01, abs=1.0)
    assert histogram.longest_seconds == max(durations) / 1e6


def test_nothing_and_the_impossible() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.99) == 0.0
    histogram.add(-1.0)
    histogram.add(1e9)
    assert histogram.milliseconds()["count"] == 2
