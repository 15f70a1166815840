"""Every metric of the ingestor, with the names of the contract; counted a batch at a time.

The books balance whenever anybody looks, because they are kept and read on the event loop, and each entry is made
without an await in between: received = committed + duplicate + rejected + pending.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from config.version import wattline_version
from ingestor.batch import Batch, Trigger
from ingestor.decode import Received
from ingestor.housekeeping.chores import ChoreName
from ingestor.receipts.receipt import Outcome as ReceiptOutcome
from ingestor.sink import Outcome
from postgres.failures import FailureKind
from telemetry.readings import ReasonCode
from telemetry.topics import KINDS

LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
AGE_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0, 604800.0)
ROWS_BUCKETS = (1, 10, 100, 1000, 5000, 10_000, 20_000, 50_000, 100_000)

M = TypeVar("M", Counter, Gauge)


class WeightedHistogram(Collector):
    """A histogram that takes many equal observations at once; prometheus-client's takes one a call (about 1 µs)."""

    def __init__(self, name: str, documentation: str, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name, self._documentation = name, documentation
        self._bounds = (*buckets, math.inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float, count: int) -> None:
        """`count` observations of `value`."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def collect(self) -> Iterator[Metric]:
        cumulative, buckets = 0, []
        for bound, count in zip(self._bounds, self._counts, strict=True):
            cumulative += count
            buckets.append(("+Inf" if bound == math.inf else repr(float(bound)), cumulative))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


def _made(sort: type[M], registry: CollectorRegistry, name: str, meaning: str, **label: Iterable[str]) -> M:
    """A metric with all series of its label from the start: an alert on an increase misses a counter's first value."""
    metric = sort(name, meaning, list(label), registry=registry)
    for values in label.values():
        for value in values:
            metric.labels(value)
    return metric


class IngestMetrics:
    """The ingestor's books. What somebody else counts or knows is public: its owner enters it, or is asked."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter, gauge = partial(_made, Counter, registry), partial(_made, Gauge, registry)
        gauge("wattline_build_info", "1; the version stands in its label", version=[wattline_version()]).labels(
            wattline_version()
        ).set(1)
        all_kinds = (*KINDS, "unknown")
        self._messages = counter("wattline_messages_received", "MQTT messages received", kind=all_kinds)
        self._received = counter("wattline_readings_received", "Readings received", kind=all_kinds)
        self._committed = counter("wattline_readings_committed", "Readings stored", kind=KINDS)
        self._duplicate = counter("wattline_readings_duplicate", "Readings that were stored already", kind=KINDS)
        self._rejected = counter("wattline_readings_rejected", "Readings refused", reason=get_args(ReasonCode))
        self._not_kept = counter("wattline_rejected_not_kept", "Refused messages counted but not kept")
        self._spooled = counter("wattline_rejected_spooled", "Valid readings that only a file beside the process has")
        self._oldest_deleted = counter(
            "wattline_rejected_oldest_deleted", "Refused messages deleted because of REJECTED_MAX_BYTES"
        )
        self._unknown_fields = counter(
            "wattline_readings_unknown_fields",
            "Readings taken without fields that are not of their kind (UNKNOWN_FIELDS=ignore)",
            kind=KINDS,
        )
        self._receipts = counter(
            "wattline_receipts",
            "Receipts that devices asked for, by what became of them",
            outcome=get_args(ReceiptOutcome),
        )
        self.pending = gauge("wattline_readings_pending", "Readings received, not committed yet")
        self.inflight = gauge("wattline_inflight_messages", "Messages with QoS 1 or 2 received, not acknowledged yet")
        self.window = gauge(
            "wattline_mqtt_window_messages",
            "Messages the broker sends ahead of our acknowledgement: MAX_INFLIGHT, or less where it has shown less",
        )
        self._flushes = counter("wattline_flushes", "Batches committed", trigger=get_args(Trigger))
        self.flush_seconds = Histogram(
            "wattline_flush_seconds", "Time from a closed batch to its COMMIT", buckets=LAG_BUCKETS, registry=registry
        )
        self._flush_rows = Histogram(
            "wattline_flush_rows", "Readings in a batch", buckets=ROWS_BUCKETS, registry=registry
        )
        self.failures = counter("wattline_flush_failures", "Attempts that failed", error=get_args(FailureKind))
        self._commit_lag = WeightedHistogram(
            "wattline_commit_lag_seconds", "From receiving a reading to its COMMIT", LAG_BUCKETS, registry
        )
        self._reading_age = WeightedHistogram(
            "wattline_reading_age_seconds", "From a reading's own timestamp to its COMMIT", AGE_BUCKETS, registry
        )
        self.connected = gauge("wattline_mqtt_connected", "1 while connected to the broker")
        self.reconnects = counter("wattline_mqtt_reconnects", "Times the connection to the broker came back")
        self.sessions_lost = counter("wattline_mqtt_sessions_lost", "Times the broker came back without our session")
        self._last_commit = gauge("wattline_last_commit_timestamp_seconds", "When the last batch was committed")
        self.silent = gauge(
            "wattline_devices_silent", "Devices that have sent nothing for longer than usual", kind=KINDS
        )
        chores = get_args(ChoreName)
        self._chore_failures = counter("wattline_chore_failures", "Rounds of a chore that failed", chore=chores)
        self._chore_success = gauge(
            "wattline_chore_last_success_timestamp_seconds",
            "When the last round of a chore went well; 0 = not yet",
            chore=chores,
        )
        self.clock_offset = gauge("wattline_clock_offset_seconds", "Our clock minus the database's, by the latest look")
        self.retention_held = gauge(
            "wattline_retention_held_days", "Days past their retention that wait for a person's yes"
        )

    def readings_committed(self) -> float:
        """Readings stored since the start, of all kinds."""
        return sum(
            sample.value
            for family in self._committed.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        )

    def received(self, received: Received) -> None:
        """A portion of messages has been added to a batch."""
        for kind, count in received.messages.items():
            self._messages.labels(kind).inc(count)
        for kind, count in received.readings.items():
            self._received.labels(kind).inc(count)
        for kind, count in received.with_unknown_fields.items():
            self._unknown_fields.labels(kind).inc(count)
        if received.receipts_ignored:
            self.receipt("ignored", received.receipts_ignored)

    def receipt(self, outcome: ReceiptOutcome, count: int = 1) -> None:
        """So many receipts have fared like this."""
        self._receipts.labels(outcome).inc(count)

    def committed(  # noqa: PLR0913 - all that is known of it
        self, batch: Batch, outcome: Outcome, trigger: Trigger, spooled: int, *, now: float, monotonic: float
    ) -> None:
        """A batch has been committed, at `now` (seconds since 1970) and `monotonic`; `spooled` of what the quarantine
        refused are in a file.
        """
        for kind in KINDS:
            self._committed.labels(kind).inc(outcome.committed[kind])
            self._duplicate.labels(kind).inc(outcome.duplicate[kind])
        for reason, count in batch.refusals.items():
            self._rejected.labels(reason).inc(count)
        for refusal in outcome.refused:
            self._rejected.labels(refusal.code).inc()
        self._not_kept.inc(batch.refusals.total() - len(batch.rejected) + len(outcome.kept.lost) - spooled)
        self._spooled.inc(spooled)
        self._oldest_deleted.inc(outcome.kept.deleted)
        self._flushes.labels(trigger).inc()
        self._flush_rows.observe(batch.readings)
        self._last_commit.set(now)
        for arrived, count in batch.arrivals:
            self._commit_lag.observe(monotonic - arrived, count)
        # To the second is close enough for an age.
        for second, count in outcome.seconds.items():
            self._reading_age.observe(max(0.0, now - second), count)

    def chore_done(self, chore: str, now: float) -> None:
        """A round of a chore went well, at `now` (seconds since 1970)."""
        self._chore_success.labels(chore).set(now)

    def chore_failed(self, chore: str) -> None:
        self._chore_failures.labels(chore).inc()
