"""The simulated fleet: who its devices are, and the readings they make.

Meter n and vehicle n share a charger, so both read the same stretch of time and carry the same timestamp. A device
whose turn came late reads the whole time since its last reading: no energy is lost, whatever the pace. No I/O here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import NamedTuple

from loadgen.model import KWH_DECIMALS, Battery, Charger, advance, make_charger, plug_in
from telemetry.topics import Kind, topic_of

ID_WORDS: dict[Kind, str] = {"meter": "METER-", "vehicle": "VEH-"}
ID_WIDTH_MIN = 3


class Device(NamedTuple):
    """One meter or vehicle as the broker sees it."""

    kind: Kind
    id: str
    topic: str


class Reading(NamedTuple):
    """One reading as it is published: `values` are exactly the numbers in `payload`, in the order of the table."""

    device: Device
    ts_us: int
    """Microseconds since 1970, unique for this device."""
    values: tuple[float, ...]
    payload: bytes


@dataclass(slots=True)
class ChargingPoint:
    """A charger with the devices at it that belong to the fleet; a missing one is simulated and not published."""

    charger: Charger
    battery: Battery
    meter: Device | None
    vehicle: Device | None
    last_read_us: int | None = None


def id_prefix(kind: Kind, prefix: str) -> str:
    """What the ids of the fleet's devices begin with: `LOAD-METER-`, or `METER-` for the fleet without a name."""
    return f"{prefix}-{ID_WORDS[kind]}" if prefix else ID_WORDS[kind]


def make_fleet(meters: int, vehicles: int, prefix: str, rng: Random) -> list[ChargingPoint]:
    """The fleet's charging points, in order of their numbers; the same generator state gives the same fleet."""
    size = max(meters, vehicles)
    # One width for both kinds, so that VEH-0042 and METER-0042 belong together also in the eyes of METER_ID_CONVENTION.
    width = max(ID_WIDTH_MIN, len(str(size)))

    def device(kind: Kind, number: int) -> Device:
        name = f"{id_prefix(kind, prefix)}{number:0{width}d}"
        return Device(kind, name, topic_of(kind, name))

    points = []
    for number in range(1, size + 1):
        charger = make_charger(number, rng)
        points.append(
            ChargingPoint(
                charger,
                plug_in(charger, rng),
                device("meter", number) if number <= meters else None,
                device("vehicle", number) if number <= vehicles else None,
            )
        )
    return points


def read_point(point: ChargingPoint, now_us: int, interval_seconds: float, rng: Random) -> list[Reading]:
    """The readings of a point's devices about the time since their last ones (the first time: an interval). 10 µs."""
    if point.last_read_us is None:
        ts_us, seconds = now_us, interval_seconds
    else:
        # A clock that was set back must not make the same timestamp twice; even ones stay even (see stream).
        ts_us = max(now_us, point.last_read_us + 2)
        seconds = (ts_us - point.last_read_us) / 1e6
    point.last_read_us = ts_us
    point.battery, measured = advance(point.charger, point.battery, seconds, rng)
    ac, voltage, soc, dc, temperature = measured
    timestamp = timestamp_text(ts_us)
    readings = []
    if point.meter is not None:
        payload = (
            f'{{"meterId":"{point.meter.id}","kwhConsumedAc":{ac:.{KWH_DECIMALS}f},'
            f'"voltage":{voltage},"timestamp":"{timestamp}"}}'
        )
        readings.append(Reading(point.meter, ts_us, (ac, voltage), payload.encode()))
    if point.vehicle is not None:
        payload = (
            f'{{"vehicleId":"{point.vehicle.id}","soc":{soc},"kwhDeliveredDc":{dc:.{KWH_DECIMALS}f},'
            f'"batteryTemp":{temperature},"timestamp":"{timestamp}"}}'
        )
        readings.append(Reading(point.vehicle, ts_us, (soc, dc, temperature), payload.encode()))
    return readings


def timestamp_text(ts_us: int) -> str:
    """RFC 3339 in UTC with microseconds."""
    seconds, microseconds = divmod(ts_us, 1_000_000)
    return f"{_second_text(seconds)}.{microseconds:06d}Z"


# Many readings share a second; formatting it is the dear part.
@lru_cache(maxsize=4)
def _second_text(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
