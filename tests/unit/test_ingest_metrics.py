"""The ingestor's books: they balance at every moment, and every series is there before anything has happened."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, get_args

import mqtt5
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from ingestor.batch import Batch, Refusal, Trigger
from ingestor.decode import Decoder
from ingestor.housekeeping.chores import ChoreName
from ingestor.metrics import AGE_BUCKETS, LAG_BUCKETS, IngestMetrics, WeightedHistogram
from ingestor.rejected.limit import KeepLimit
from ingestor.sink import Outcome
from postgres.failures import FailureKind
from telemetry.kinds import KINDS
from telemetry.readings import ReasonCode
from telemetry.rules import Rules
from tests.devices import meter_reading, vehicle_reading

NOW = 1_769_868_000.0
AT = datetime(2026, 1, 31, 13, 59, 50, tzinfo=UTC)

values = st.floats(0, 1e9) | st.sampled_from(LAG_BUCKETS)


@given(st.lists(st.tuples(values, st.integers(0, 1000))))
@settings(deadline=None)
def test_a_weighted_histogram_is_an_ordinary_one_with_each_observation_repeated(
    observed: list[Any] | list[tuple[float, int]],
) -> None:
    one, other = CollectorRegistry(), CollectorRegistry()
    weighted = WeightedHistogram("seconds", "", LAG_BUCKETS, one)
    ordinary = Histogram("seconds", "", buckets=LAG_BUCKETS, registry=other)
    for value, count in observed:
        weighted.observe(value, count)
        for _ in range(count):
            ordinary.observe(value)
    for bound in (*LAG_BUCKETS, float("inf")):
        label = {"le": "+Inf" if bound == float("inf") else str(bound)}
        assert one.get_sample_value("seconds_bucket", label) == other.get_sample_value("seconds_bucket", label)
    assert one.get_sample_value("seconds_count") == other.get_sample_value("seconds_count")


def test_every_series_is_there_from_the_start() -> None:
    registry = IngestMetrics().registry
    for name, label, expected in (
        ("wattline_readings_received_total", "kind", (*(kind.name for kind in KINDS), "unknown")),
        ("wattline_readings_committed_total", "kind", [kind.name for kind in KINDS]),
        ("wattline_readings_duplicate_total", "kind", [kind.name for kind in KINDS]),
        ("wattline_devices_silent", "kind", [kind.name for kind in KINDS]),
        ("wattline_readings_rejected_total", "reason", get_args(ReasonCode)),
        ("wattline_flushes_total", "trigger", get_args(Trigger)),
        ("wattline_flush_failures_total", "error", get_args(FailureKind)),
        ("wattline_chore_failures_total", "chore", get_args(ChoreName)),
    ):
        assert [value for value in expected if registry.get_sample_value(name, {label: value}) != 0] == []


def total(metrics: IngestMetrics, name: str) -> float:
    return sum(
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"wattline_readings_{name}_total"
    )


payloads = st.sampled_from(
    [
        ("v1/telemetry/meter/M", meter_reading("M", at=AT)),
        ("v1/telemetry/vehicle/V", vehicle_reading("V", at=AT)),
        ("v1/telemetry/meter/M", [meter_reading("M", at=AT), 7, {}]),
        ("v1/telemetry/meter/M", b"{"),
        ("v1/telemetry/nothing", 1),
    ]
)


@given(st.lists(st.tuples(st.lists(payloads), st.floats(0, 1), st.floats(0, 1)), max_size=4))
@settings(max_examples=25, deadline=None)
def test_received_is_committed_and_duplicate_and_rejected_and_pending(
    batches: list[Any] | list[tuple[Any, float, float]],
) -> None:
    metrics, decoder = IngestMetrics(), Decoder(Rules(), keep_limit=KeepLimit(1000))
    for sent, share_duplicate, share_refused in batches:
        batch, outcome = Batch(), Outcome()
        received = decoder.decode(
            [mqtt5.PublishPacket(topic, as_bytes(payload)) for topic, payload in sent], batch, NOW
        )
        metrics.received(received)
        before = total(metrics, "committed") + total(metrics, "duplicate") + total(metrics, "rejected")
        assert total(metrics, "received") == before + batch.readings
        valid = {kind.name: received.readings[kind.name] for kind in KINDS}
        refusals = batch.refusals.total() - received.readings["unknown"]
        for kind, readings in valid.items():
            taken = min(refusals, readings)  # which kind an item that was refused on receiving had does not matter
            refusals -= taken
            stored = readings - taken
            duplicate = int(stored * share_duplicate)
            refused = int((stored - duplicate) * share_refused)
            outcome.duplicate[kind] = duplicate
            outcome.committed[kind] = stored - duplicate - refused
            outcome.refused += [Refusal("t", b"", "database_refused", "", NOW)] * refused
        metrics.committed(batch, outcome, "interval", 0, now=NOW, monotonic=1.0)
        after = total(metrics, "committed") + total(metrics, "duplicate") + total(metrics, "rejected")
        assert total(metrics, "received") == after


def test_a_committed_batch_is_seen_with_its_lag_and_its_age() -> None:
    metrics, batch, outcome = IngestMetrics(), Batch(), Outcome()
    batch.arrivals = [(10.0, 3), (11.0, 2)]
    outcome.seconds.update({int(NOW) - 10: 4, int(NOW) + 5: 1})
    metrics.committed(batch, outcome, "rows", 0, now=NOW, monotonic=11.5)
    read = metrics.registry.get_sample_value
    assert read("wattline_flushes_total", {"trigger": "rows"}) == 1
    assert read("wattline_last_commit_timestamp_seconds") == NOW
    assert (read("wattline_commit_lag_seconds_count"), read("wattline_commit_lag_seconds_sum")) == (
        5,
        3 * 1.5 + 2 * 0.5,
    )
    # A reading from the future is of age 0.
    assert (read("wattline_reading_age_seconds_count"), read("wattline_reading_age_seconds_sum")) == (5, 40)
    assert read("wattline_reading_age_seconds_bucket", {"le": str(AGE_BUCKETS[0])}) == 1


def as_bytes(payload: object) -> bytes:
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()
