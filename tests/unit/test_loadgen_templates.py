"""Readings at high rates: as valid and as plausible as those of the simulated fleet, and the same for the same seed."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.fleet import Reading, make_fleet
from loadgen.model import health_of
from loadgen.templates import MODELS_MAX, STEPS, Templates
from telemetry.readings import PAYLOADS, timestamp_us
from tests.examples import examples

METER, VEHICLE = PAYLOADS["meter"], PAYLOADS["vehicle"]

NOON_US = 1_769_868_000_000_000
HEALTH_LIMITS = {"healthy": (0.85, 1.0), "warning": (0.70, 0.85), "critical": (0.0, 0.70)}


def templates(meters: int, vehicles: int, seed: int = 1) -> Templates:
    return Templates(make_fleet({"meter": meters, "vehicle": vehicles}, "LOAD", Random(seed)), Random(seed))


def read(made: Templates, rounds: int) -> list[Reading]:
    return [made.read(turn, NOON_US + 2 * turn) for turn in range(rounds * len(made))]


@given(st.integers(0, 2**32))
@settings(max_examples=examples(20))
def test_payloads_are_valid_and_say_exactly_what_is_remembered(seed: int) -> None:
    for reading in read(templates(3, 3, seed), STEPS):
        if reading.device.kind == "meter":
            meter = METER.validate_json(reading.payload)
            assert (meter["kwhConsumedAc"], meter["voltage"]) == reading.values
            name, timestamp = meter["meterId"], meter["timestamp"]
        else:
            vehicle = VEHICLE.validate_json(reading.payload)
            assert (vehicle["soc"], vehicle["kwhDeliveredDc"], vehicle["batteryTemp"]) == reading.values
            name, timestamp = vehicle["vehicleId"], vehicle["timestamp"]
        assert name == reading.device.id
        assert timestamp_us(timestamp) == reading.ts_us


@given(st.integers(0, 2**32))
@settings(max_examples=examples(20))
def test_a_meter_reads_more_than_its_vehicle_at_every_step(seed: int) -> None:
    readings = read(templates(10, 10, seed), STEPS + 1)
    for meter, vehicle in zip(readings[::2], readings[1::2], strict=True):
        assert (meter.device.kind, vehicle.device.kind) == ("meter", "vehicle")
        assert meter.device.id.removeprefix("LOAD-METER-") == vehicle.device.id.removeprefix("LOAD-VEH-")
        assert meter.values[0] > vehicle.values[1] >= 0


@pytest.mark.parametrize("place", [1, 3, 6])
def test_a_charger_has_the_health_of_its_place(place: int) -> None:
    readings = [one for one in read(templates(10, 10), STEPS) if one.device.id.endswith(f"-{place:03d}")]
    ac = sum(one.values[0] for one in readings if one.device.kind == "meter")
    dc = sum(one.values[1] for one in readings if one.device.kind == "vehicle")
    least, most = HEALTH_LIMITS[health_of(place)]
    assert least <= dc / ac < most


def test_the_same_seed_reads_the_same_and_another_one_does_not() -> None:
    first, again, other = (read(templates(5, 5, seed), STEPS) for seed in (1, 1, 2))
    assert first == again
    assert [one.values for one in first] != [one.values for one in other]


def test_half_an_hour_goes_round_and_round() -> None:
    made = templates(2, 2)
    readings = read(made, 2 * STEPS)
    first, second = readings[: STEPS * len(made)], readings[STEPS * len(made) :]
    assert [one.values for one in first] == [one.values for one in second]
    assert len({one.values for one in first if one.device.id == "LOAD-VEH-001"}) > STEPS // 2


@pytest.mark.parametrize(("meters", "vehicles"), [(3, 1), (1, 3), (0, 2), (MODELS_MAX + 5, 1)])
def test_each_device_has_its_turn_once_a_round(meters: int, vehicles: int) -> None:
    made = templates(meters, vehicles)
    kinds = [one.device.kind for one in read(made, 1)]
    assert (kinds.count("meter"), kinds.count("vehicle")) == (meters, vehicles)
    assert len({one.device.id for one in read(made, 3)}) == len(made) == meters + vehicles
