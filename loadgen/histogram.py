"""Durations by the million in constant memory: log-linear buckets, like HdrHistogram's, off by less than 1 %.

Below 256 µs each microsecond has its own bucket; above, each doubling is cut into 128. The largest value is exact.
"""

from __future__ import annotations

from array import array
from typing import Final

SUB_BITS: Final = 7
SUB_BUCKETS: Final = 1 << SUB_BITS
# 2 ** 42 µs are 50 days; what is longer counts as that long.
MICROSECONDS_MAX: Final = (1 << 42) - 1


def bucket_of(microseconds: int) -> int:
    """The number of the bucket of a duration."""
    shift = microseconds.bit_length() - SUB_BITS - 1
    return microseconds if shift <= 0 else (shift << SUB_BITS) + (microseconds >> shift)


def middle_of(bucket: int) -> float:
    """The duration (microseconds) in the middle of a bucket."""
    shift = (bucket >> SUB_BITS) - 1
    if shift <= 0:
        return float(bucket)
    least = (SUB_BUCKETS + (bucket & (SUB_BUCKETS - 1))) << shift
    return least + ((1 << shift) - 1) / 2


class Histogram:
    """How long things took."""

    def __init__(self) -> None:
        self._buckets = array("Q", bytes(8 * (bucket_of(MICROSECONDS_MAX) + 1)))
        self.count = 0
        self.longest_seconds = 0.0

    def add(self, seconds: float) -> None:
        """One duration; a negative one (clocks) counts as none. 0.3 µs."""
        self.longest_seconds = max(self.longest_seconds, seconds)
        microseconds = min(max(int(seconds * 1e6), 0), MICROSECONDS_MAX)
        shift = microseconds.bit_length() - SUB_BITS - 1
        self._buckets[microseconds if shift <= 0 else (shift << SUB_BITS) + (microseconds >> shift)] += 1
        self.count += 1

    def quantile(self, share: float) -> float:
        """The duration (seconds) that `share` (0 to 1) of all do not exceed; 0 when there are none."""
        wanted, seen = share * self.count, 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return min(middle_of(bucket) / 1e6, self.longest_seconds)
        return self.longest_seconds

    def milliseconds(self) -> dict[str, float]:
        return {
            "count": self.count,
            "p50": round(self.quantile(0.5) * 1e3, 3),
            "p99": round(self.quantile(0.99) * 1e3, 3),
            "max": round(self.longest_seconds * 1e3, 3),
        }

    def line(self) -> str:
        """The quantiles as a line for a person."""
        p50, p99, longest = self.quantile(0.5) * 1e3, self.quantile(0.99) * 1e3, self.longest_seconds * 1e3
        return f"p50 {p50:,.1f} ms, p99 {p99:,.1f} ms, max {longest:,.1f} ms"
