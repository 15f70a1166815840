"""The evidence of a run: what was sent, what of it was acknowledged."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.evidence import DeviceEvidence, Evidence
from loadgen.fleet import Reading, make_fleet

POINTS = make_fleet({"meter": 2, "vehicle": 1}, "LOAD", Random(1))


def readings(at_us: int) -> list[Reading]:
    rng = Random(2)
    return [
        reading
        for point in make_fleet({"meter": 2, "vehicle": 1}, "LOAD", Random(1))
        for reading in point.read(at_us, 5.0, rng)
    ]


def test_an_empty_record_has_no_window() -> None:
    assert Evidence(POINTS).window() is None


def test_the_window_is_from_the_first_to_the_last_timestamp_of_all_devices() -> None:
    evidence = Evidence(POINTS)
    first, second = readings(1_000), readings(5_000)
    for reading in (*first, second[1]):
        evidence.add(reading)
    assert evidence.window() == (1_000, 5_000)


def test_acknowledged_readings_are_counted_by_kind_and_once() -> None:
    evidence = Evidence(POINTS)
    sent = readings(1_000)
    for reading in sent:
        evidence.add(reading)
    vehicle = next(reading for reading in sent if reading.device.kind == "vehicle")
    evidence.acknowledge(vehicle)
    evidence.acknowledge(vehicle)
    assert (evidence.acknowledged("meter"), evidence.acknowledged("vehicle")) == (0, 1)
    assert evidence.devices["vehicle"]["LOAD-VEH-001"].newest_acknowledged() == 1_000
    assert evidence.devices["meter"]["LOAD-METER-001"].newest_acknowledged() is None


def test_acknowledging_what_was_never_sent_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError, match="LOAD-METER-001 never sent"):
        Evidence(POINTS).acknowledge(readings(1_000)[0])


@given(
    st.lists(st.tuples(st.integers(0, 2**53), st.floats(), st.floats()), unique_by=lambda row: row[0], min_size=1),
    st.integers(0, 2**53),
)
def test_a_reading_is_found_by_its_timestamp_with_its_values(
    rows: list[tuple[int, float, float]], stranger: int
) -> None:
    device = DeviceEvidence("meter")
    rows.sort()
    for ts_us, *values in rows:
        device.add(ts_us, tuple(values))
    for index, (ts_us, *values) in enumerate(rows):
        assert device.find(ts_us) == index
        assert repr(device.values(index)) == repr(tuple(values))  # repr: nan is not equal to itself
    if stranger not in [row[0] for row in rows]:
        assert device.find(stranger) is None
