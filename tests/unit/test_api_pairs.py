"""Which meter feeds a vehicle, by its name."""

from __future__ import annotations

import pytest

from analytics_api.analytics.pairs import MeterConvention


@pytest.mark.parametrize(
    ("convention", "vehicle_id", "meter_id"),
    [
        ("VEH-:METER-", "VEH-001", "METER-001"),
        ("VEH-:METER-", "VEH-VEH-1", "METER-VEH-1"),  # only the prefix is swapped
        ("VEH-:METER-", "veh-001", None),
        ("VEH-:METER-", "CAR-VEH-001", None),
        ("car.:box_", "car.7", "box_7"),
    ],
)
def test_one_prefix_takes_the_place_of_the_other(convention: str, vehicle_id: str, meter_id: str | None) -> None:
    parsed = MeterConvention.parse(convention)
    assert parsed is not None
    assert parsed.meter_of(vehicle_id) == meter_id
    if meter_id is not None:
        assert parsed.vehicle_of(meter_id) == vehicle_id


def test_a_meter_of_another_name_is_nobodys() -> None:
    assert MeterConvention("VEH-", "METER-").vehicle_of("BOX-001") is None


def test_empty_means_none() -> None:
    assert MeterConvention.parse("") is None
