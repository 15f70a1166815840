"""What the ingestor has done since `up` began, read from its /metrics; it survives the ingestor's own restarts."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

RATE_SECONDS = 5.0  # steady enough to read, quick enough to show a stall
COUNTERS = {
    "committed": "wattline_readings_committed_total",
    "duplicate": "wattline_readings_duplicate_total",
    "rejected": "wattline_readings_rejected_total",
}
PENDING = "wattline_readings_pending"


@dataclass(frozen=True)
class Sample:
    """The ingestor's counters at one moment, all kinds and reasons together, in readings."""

    committed: int
    duplicate: int
    rejected: int
    pending: int


class Books:
    """Totals and a rate out of samples; a counter that went back began again with a new process."""

    def __init__(self) -> None:
        self.pending = 0
        self._totals = dict.fromkeys(COUNTERS, 0)
        self._last = dict.fromkeys(COUNTERS, 0)
        self._recent: deque[tuple[float, int]] = deque()

    @property
    def committed(self) -> int:
        """Readings stored."""
        return self._totals["committed"]

    def enter(self, sample: Sample, now: float) -> None:
        """Add one look at the counters, taken at `now` (seconds of any clock that only goes forward)."""
        self.pending = sample.pending
        for name in COUNTERS:
            value = getattr(sample, name)
            self._totals[name] += value - self._last[name] if value >= self._last[name] else value
            self._last[name] = value
        self._recent.append((now, self.committed))
        while now - self._recent[0][0] > RATE_SECONDS:
            self._recent.popleft()

    def line(self) -> str:
        """The state in words."""
        (since, before), (now, committed) = self._recent[0], self._recent[-1]
        rate = (committed - before) / (now - since) if now > since else 0.0
        return (
            f"committed {committed:,} readings ({rate:,.0f}/s), pending {self.pending:,}, "
            f"rejected {self._totals['rejected']:,}, duplicate {self._totals['duplicate']:,}"
        )


def read_sample(metrics: str) -> Sample:
    """From Prometheus text; a name that does not occur counts 0."""
    sums: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            sums[sample.name] += sample.value
    counters = {name: int(sums[metric]) for name, metric in COUNTERS.items()}
    return Sample(**counters, pending=int(sums[PENDING]))
