"""Readings at high rates: the charging model's numbers, worked out before the run and written into payloads during it.

A simulated reading costs 10 µs, one of these 1 µs. What it gives up is the course of a battery over hours: each charger
goes round and round through half an hour of charging. What it keeps: every number is known exactly, each charger has
its health, and the AC energy of a meter's reading is more than the DC energy of its vehicle's. No I/O here.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple

from loadgen.fleet import ChargingPoint, Device, Reading, timestamp_text
from loadgen.model import HEALTH_BY_PLACE, KWH_DECIMALS, advance

# Enough chargers that a table does not look copied, in whole rounds of the healths.
CHARGERS_MAX: Final = 10 * len(HEALTH_BY_PLACE)
STEPS: Final = 30
STEP_SECONDS: Final = 60.0


class Part(NamedTuple):
    """What a payload says between its device and its time, and the numbers in it."""

    text: str
    values: tuple[float, ...]


class Templates:
    """The devices of a fleet, one after the other, and what each of them reads."""

    def __init__(self, points: Sequence[ChargingPoint], rng: Random) -> None:
        pairs = [_parts(point, rng) for point in points[:CHARGERS_MAX]]
        self._devices: list[tuple[Device, str, list[Part]]] = []
        for place, point in enumerate(points):
            meter_parts, vehicle_parts = pairs[place % len(pairs)]
            if point.meter is not None:
                self._devices.append((point.meter, f'{{"meterId":"{point.meter.id}",', meter_parts))
            if point.vehicle is not None:
                self._devices.append((point.vehicle, f'{{"vehicleId":"{point.vehicle.id}",', vehicle_parts))

    def __len__(self) -> int:
        """How many devices there are."""
        return len(self._devices)

    def read(self, turn: int, ts_us: int) -> Reading:
        """The reading of a turn: device after device, round after round. 1 µs."""
        rounds, place = divmod(turn, len(self._devices))
        device, head, parts = self._devices[place]
        text, values = parts[rounds % STEPS]
        return Reading(device, ts_us, values, f'{head}{text}{timestamp_text(ts_us)}"}}'.encode())


def _parts(point: ChargingPoint, rng: Random) -> tuple[list[Part], list[Part]]:
    """Half an hour of a charger, for its meter and its vehicle."""
    meter, vehicle = [], []
    for _ in range(STEPS):
        point.battery, measured = advance(point.charger, point.battery, STEP_SECONDS, rng)
        ac, voltage, soc, dc, temperature = measured
        meter.append(Part(f'"kwhConsumedAc":{ac:.{KWH_DECIMALS}f},"voltage":{voltage},"timestamp":"', (ac, voltage)))
        vehicle.append(
            Part(
                f'"soc":{soc},"kwhDeliveredDc":{dc:.{KWH_DECIMALS}f},"batteryTemp":{temperature},"timestamp":"',
                (soc, dc, temperature),
            )
        )
    return meter, vehicle
