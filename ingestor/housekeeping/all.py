"""Which chores an ingestor has. A new one is a module of its own and a line here."""

from __future__ import annotations

from collections.abc import Callable

from config.settings import Settings
from ingestor.clocks import Clocks
from ingestor.housekeeping import gauges, hourly_sums, partitions_ahead, quarantine, retention, usual_intervals
from ingestor.housekeeping.chores import Chore
from ingestor.metrics import IngestMetrics
from ingestor.rejected.bound import ByteBound


def all_chores(
    settings: Settings, metrics: IngestMetrics, clocks: Clocks, bound: ByteBound, connected: Callable[[], bool]
) -> list[Chore]:
    """`bound` is the size of the quarantine, `connected` says whether the broker's link is up."""
    return [
        partitions_ahead.CHORE,
        retention.chore(settings.retention_days, clocks, metrics.retention_held.set),
        quarantine.chore(settings.rejected_retention_days, clocks, bound),
        hourly_sums.CHORE,
        usual_intervals.chore(),
        gauges.chore(settings.silent_after_seconds, metrics, connected),
    ]
