"""The simulated devices: their names, and readings that the contract accepts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.fleet import Reading, make_fleet, timestamp_text
from telemetry.readings import PAYLOADS, timestamp_us

METER, VEHICLE = PAYLOADS["meter"], PAYLOADS["vehicle"]

NOON_US = 1_769_868_000_000_000


def ids(meters: int, vehicles: int, prefix: str = "LOAD") -> tuple[list[str], list[str]]:
    points = make_fleet({"meter": meters, "vehicle": vehicles}, prefix, Random(1))
    devices = [device for point in points for device in point.devices]
    meters_there, vehicles_there = ([one.id for one in devices if one.kind == kind] for kind in ("meter", "vehicle"))
    return meters_there, vehicles_there


def test_devices_are_numbered_from_one_with_three_digits() -> None:
    assert ids(2, 2) == (["LOAD-METER-001", "LOAD-METER-002"], ["LOAD-VEH-001", "LOAD-VEH-002"])


def test_without_a_prefix_the_names_are_those_of_the_contract() -> None:
    assert ids(1, 1, "") == (["METER-001"], ["VEH-001"])


@pytest.mark.parametrize(("meters", "vehicles"), [(1000, 5), (5, 1000)])
def test_numbers_grow_together_so_that_a_vehicle_keeps_the_number_of_its_meter(meters: int, vehicles: int) -> None:
    names = ids(meters, vehicles)
    assert (len(names[0]), len(names[1])) == (meters, vehicles)
    assert names[0][4] == "LOAD-METER-0005"
    assert names[1][4] == "LOAD-VEH-0005"


@pytest.mark.parametrize(("meters", "vehicles"), [(3, 1), (1, 3), (0, 3), (3, 0)])
def test_more_of_one_kind_than_of_the_other(meters: int, vehicles: int) -> None:
    rng = Random(1)
    readings = [
        reading
        for point in make_fleet({"meter": meters, "vehicle": vehicles}, "A", rng)
        for reading in point.read(NOON_US, 5.0, rng)
    ]
    kinds = [reading.device.kind for reading in readings]
    assert (kinds.count("meter"), kinds.count("vehicle")) == (meters, vehicles)


def numbers(reading: Reading) -> tuple[float, ...]:
    """The payload's numbers in the order of the table, as the contract's own models read them."""
    if reading.device.kind == "meter":
        meter = METER.validate_json(reading.payload)
        assert meter["meterId"] == reading.device.id
        return meter["kwhConsumedAc"], meter["voltage"]
    vehicle = VEHICLE.validate_json(reading.payload)
    assert vehicle["vehicleId"] == reading.device.id
    return vehicle["soc"], vehicle["kwhDeliveredDc"], vehicle["batteryTemp"]


@given(st.integers(0, 2**32), st.floats(0.1, 86_400.0), st.integers(1, 10))
def test_payloads_are_valid_and_say_exactly_what_is_remembered(seed: int, interval: float, rounds: int) -> None:
    rng = Random(seed)
    (point,) = make_fleet({"meter": 1, "vehicle": 1}, "LOAD", rng)
    for number in range(rounds):
        now_us = NOON_US + round(number * interval * 1e6)
        meter, vehicle = point.read(now_us, interval, rng)
        for reading in (meter, vehicle):
            assert numbers(reading) == reading.values
            assert reading.ts_us == now_us
            model = METER if reading is meter else VEHICLE
            assert timestamp_us(model.validate_json(reading.payload)["timestamp"]) == now_us
        assert meter.device.topic == "v1/telemetry/meter/LOAD-METER-001"
        assert vehicle.device.topic == "v1/telemetry/vehicle/LOAD-VEH-001"


def test_a_device_never_uses_a_timestamp_twice_not_even_when_the_clock_is_set_back() -> None:
    rng = Random(1)
    (point,) = make_fleet({"meter": 1, "vehicle": 1}, "LOAD", rng)
    clock = [NOON_US, NOON_US, NOON_US - 3_600_000_000, NOON_US - 3_599_000_000]
    stamps = [point.read(now, 5.0, rng)[0].ts_us for now in clock]
    assert len(set(stamps)) == len(clock)


def test_a_late_reading_has_the_energy_of_the_whole_time() -> None:
    def energy(seconds: list[float]) -> float:
        rng = Random(5)
        (point,) = make_fleet({"meter": 0, "vehicle": 1}, "LOAD", rng)
        point.read(NOON_US, 5.0, rng)
        return sum(point.read(NOON_US + round(at * 1e6), 5.0, rng)[0].values[1] for at in seconds)

    assert energy([60.0]) == pytest.approx(energy([5.0 * turn for turn in range(1, 13)]), rel=0.01)


@pytest.mark.parametrize(
    ("ts_us", "text"), [(0, "1970-01-01T00:00:00.000000Z"), (NOON_US + 1234, "2026-01-31T14:00:00.001234Z")]
)
def test_timestamps_have_microseconds_and_are_utc(ts_us: int, text: str) -> None:
    assert timestamp_text(ts_us) == text
