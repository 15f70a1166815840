"""Decode: nothing that a device sends raises, and every message is accounted for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.batch import Batch
from ingestor.decode import Decoder
from ingestor.rejected.limit import KeepLimit
from telemetry.rules import Rules
from tests.devices import iso, meter_reading, vehicle_reading

NOW = datetime(2026, 1, 31, 14, 0, tzinfo=UTC)
TOPICS = st.sampled_from(
    [
        "v1/telemetry/meter/M",
        "v1/telemetry/vehicle/V",
        "v1/telemetry/meter/",
        "v1/telemetry/x",
        "v1/telemetry/meter/M/x",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
readings = st.fixed_dictionaries(
    {
        "meterId": st.sampled_from(["M", "N"]) | json_values,
        "kwhConsumedAc": st.floats(-1, 2e6) | json_values,
        "voltage": st.floats(0, 500),
        "timestamp": st.datetimes(timezones=st.just(UTC)).map(iso) | json_values,
    }
)
payloads = (
    st.binary()
    | json_values.map(json.dumps).map(str.encode)
    | (readings | st.lists(readings | json_values)).map(json.dumps).map(str.encode)
)


def decoder() -> Decoder:
    return Decoder(Rules(), keep_limit=KeepLimit(1_000_000))


def decode(*messages: tuple[str, bytes | object]) -> tuple[Batch, dict[str, int]]:
    batch = Batch()
    packets = [
        mqtt5.PublishPacket(topic, payload if isinstance(payload, bytes) else json.dumps(payload).encode())
        for topic, payload in messages
    ]
    return batch, decoder().decode(packets, batch, NOW.timestamp()).readings


@given(st.lists(st.tuples(TOPICS, payloads)))
def test_whatever_is_sent_nothing_raises_and_the_books_balance(messages: list[Any] | list[tuple[str, bytes]]) -> None:
    batch, received = decode(*messages)
    assert batch.messages == len(messages)
    assert (
        sum(received.values())
        == batch.readings
        == len(batch.rows["meter"]) + len(batch.rows["vehicle"]) + len(batch.rejected)
    )
    for refusal in batch.rejected:
        assert "\n" not in refusal.reason
        assert refusal.reason.isprintable() or "\\" in refusal.reason


@given(st.binary(max_size=50))
def test_bytes_of_one_payload_never_reach_its_neighbour(noise: bytes) -> None:
    batch, _ = decode(
        ("v1/telemetry/meter/M", meter_reading("M", NOW)),
        ("v1/telemetry/meter/M", noise),
        ("v1/telemetry/vehicle/V", vehicle_reading("V", NOW)),
    )
    assert [row[0] for row in batch.rows["meter"]] == ["M"]
    assert [row[0] for row in batch.rows["vehicle"]] == ["V"]


@given(
    st.floats(0, 1e6, allow_subnormal=False),
    st.datetimes(datetime(2026, 1, 2), datetime(2026, 1, 31, 14, 5)),  # noqa: DTZ001 - given their zone below
)
def test_a_valid_reading_becomes_its_row_to_the_microsecond(energy: float, at: datetime) -> None:
    moment = at.replace(tzinfo=UTC)
    batch, _ = decode(("v1/telemetry/meter/M", meter_reading("M", moment, kwhConsumedAc=energy)))
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert batch.rows["meter"] == [("M", expected, energy, 238.4)]


def test_the_window_of_timestamps_includes_its_ends() -> None:
    ahead, behind = timedelta(seconds=300), timedelta(days=30)
    moments = [NOW + ahead, NOW + ahead + timedelta.resolution, NOW - behind, NOW - behind - timedelta.resolution]
    batch, _ = decode(*(("v1/telemetry/meter/M", meter_reading("M", at)) for at in moments))
    assert len(batch.rows["meter"]) == 2
    assert [refusal.code for refusal in batch.rejected] == ["clock_skew", "too_old"]


def test_of_a_duplicate_key_the_last_wins() -> None:
    text = json.dumps(meter_reading("M", NOW)).replace('"voltage": 238.4', '"voltage": "no", "voltage": 7')
    batch, _ = decode(("v1/telemetry/meter/M", text.encode()))
    assert batch.rows["meter"][0][3] == 7


def test_an_offset_is_taken_to_utc() -> None:
    reading = meter_reading("M") | {"timestamp": "2026-01-31T15:30:00.5+01:30"}
    batch, _ = decode(("v1/telemetry/meter/M", reading))
    assert batch.rows["meter"][0][1] == int(NOW.timestamp() * 1e6) + 500_000


@pytest.mark.parametrize("kept_per_second", [0, 10, 1_000_000])
def test_what_a_wrong_clock_refused_is_judged_again(kept_per_second: int) -> None:
    """Also where refusals are not kept: until both clocks were looked at, none of them is final."""
    monotonic = 50.0
    limit = KeepLimit(kept_per_second, clock=lambda: monotonic)
    judge, batch = Decoder(Rules(), keep_limit=limit), Batch()
    meters = [meter_reading("M", NOW + timedelta(seconds=n)) for n in range(100)]
    hasty = meter_reading("M", NOW + timedelta(hours=1))
    packets = [
        mqtt5.PublishPacket("v1/telemetry/meter/M", json.dumps(payload).encode()) for payload in (meters, hasty, {})
    ]
    judge.decode(packets, batch, (NOW - timedelta(hours=1)).timestamp())
    assert batch.refusals == {"clock_skew": 101, "invalid_shape": 1}
    judge.judge_again(batch, NOW.timestamp())
    assert len(batch.rows["meter"]) == 100
    assert +batch.refusals == {"clock_skew": 1, "invalid_shape": 1}
    assert [refused.code for refused in batch.rejected] == (["clock_skew", "invalid_shape"] if kept_per_second else [])
    assert batch.readings == batch.received == 102
    assert limit.pause_seconds() < 0, "readings that were taken cost nothing of what may be kept"


@pytest.mark.parametrize("array", [False, True])
def test_unknown_fields_are_refused_or_left_out_and_counted(array: bool) -> None:
    good, more = meter_reading("M", NOW), meter_reading("M", NOW, rssi=-70, firmware={"a": [1]})
    less = {name: value for name, value in more.items() if name != "voltage"}
    payloads = [[good, more, less]] if array else [good, more, less]
    packets = [mqtt5.PublishPacket("v1/telemetry/meter/M", json.dumps(payload).encode()) for payload in payloads]
    for rules, taken, counted in ((Rules(), 1, {}), (Rules(takes_unknown_fields=True), 2, {"meter": 1})):
        batch = Batch()
        received = Decoder(rules, keep_limit=KeepLimit(1000)).decode(packets, batch, NOW.timestamp())
        assert len(batch.rows["meter"]) == taken
        assert {len(row) for row in batch.rows["meter"]} == {4}
        assert batch.refusals == {"invalid_shape": 3 - taken}
        assert batch.readings == batch.received == 3
        assert received.with_unknown_fields == counted
    assert "voltage is missing" in batch.rejected[0].reason
