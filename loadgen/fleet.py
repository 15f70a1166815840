"""The simulated fleet: who its devices are, and the readings they make.

Meter n and vehicle n share a charger, so both read the same stretch of time and carry the same timestamp; a device of
any other kind stands alone. A device whose turn came late reads the whole time since its last reading: no energy that
flows through a charger is lost, whatever the pace. No I/O here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import NamedTuple, Protocol

from loadgen.charging import PAIR, Charging
from loadgen.payloads import FORMS
from loadgen.wandering import Wandering
from telemetry.kinds import BY_NAME, KINDS
from telemetry.topics import topic_of

ID_WIDTH_MIN = 3
_write = {name: form.whole.format for name, form in FORMS.items()}


class Device(NamedTuple):
    """One device as the broker sees it."""

    kind: str
    """The kind's name."""
    id: str
    topic: str


class Reading(NamedTuple):
    """One reading as it is published: `values` are exactly the numbers in `payload`, in the order of the table."""

    device: Device
    ts_us: int
    """Microseconds since 1970, unique for this device."""
    values: tuple[float, ...]
    payload: bytes


class Model(Protocol):
    """What the devices of one point measure."""

    @property
    def family(self) -> str:
        """Which points are of the same sort."""

    def measure(self, seconds: float, rng: Random) -> Mapping[str, tuple[float, ...]]:
        """The values of the next `seconds` (> 0), by the name of the kind."""


@dataclass(slots=True)
class Point:
    """Devices that read the same stretch of time: a charger's meter and vehicle, one of these, or one other device."""

    devices: tuple[Device, ...]
    model: Model
    last_read_us: int | None = None

    def read(self, now_us: int, interval_seconds: float, rng: Random) -> list[Reading]:
        """The readings about the time since the last ones (the first time: an interval). 10 µs for a charger."""
        if self.last_read_us is None:
            ts_us, seconds = now_us, interval_seconds
        else:
            # A clock that was set back must not make the same timestamp twice; even ones stay even (see messages).
            ts_us = max(now_us, self.last_read_us + 2)
            seconds = (ts_us - self.last_read_us) / 1e6
        self.last_read_us = ts_us
        measured = self.model.measure(seconds, rng)
        timestamp = timestamp_text(ts_us)
        readings = []
        for device in self.devices:
            values = measured[device.kind]
            payload = _write[device.kind](device.id, *values, timestamp)
            readings.append(Reading(device, ts_us, values, payload.encode()))
        return readings


def id_prefix(kind: str, prefix: str) -> str:
    """What the ids of the fleet's devices begin with: `LOAD-METER-`, or `METER-` for the fleet without a name."""
    own = BY_NAME[kind].id_prefix
    return f"{prefix}-{own}" if prefix else own


def points_of(devices: Mapping[str, int]) -> int:
    """How many points a fleet has; `devices` counts them by the name of their kind."""
    paired = [kind.name for kind in PAIR]
    alone = sum(count for name, count in devices.items() if name not in paired)
    return max(devices.get(name, 0) for name in paired) + alone


def device_ids(devices: Mapping[str, int], prefix: str) -> list[str]:
    """How the devices of such a fleet are called."""
    width = _width(devices)
    return [
        f"{id_prefix(kind, prefix)}{number:0{width}d}"
        for kind, count in devices.items()
        for number in range(1, count + 1)
    ]


def _width(devices: Mapping[str, int]) -> int:
    """One for all, so that VEH-0042 and METER-0042 belong together also in the eyes of METER_ID_CONVENTION."""
    return max(ID_WIDTH_MIN, len(str(max(devices.values()))))


def make_fleet(devices: Mapping[str, int], prefix: str, rng: Random) -> list[Point]:
    """The points of a fleet, `devices` of each kind by its name: chargers first, each sort in order of its numbers.

    The same generator state gives the same fleet.
    """
    width = _width(devices)

    def device(kind: str, number: int) -> Device:
        name = f"{id_prefix(kind, prefix)}{number:0{width}d}"
        return Device(kind, name, topic_of(kind, name))

    paired = [kind.name for kind in PAIR]
    points = []
    for number in range(1, max(devices.get(name, 0) for name in paired) + 1):
        there = tuple(device(name, number) for name in paired if number <= devices.get(name, 0))
        points.append(Point(there, Charging(number, rng)))
    for kind in KINDS:
        if kind not in PAIR:
            numbers = range(1, devices.get(kind.name, 0) + 1)
            points += [Point((device(kind.name, number),), Wandering(kind, rng)) for number in numbers]
    return points


def timestamp_text(ts_us: int) -> str:
    """RFC 3339 in UTC with microseconds."""
    seconds, microseconds = divmod(ts_us, 1_000_000)
    return f"{_second_text(seconds)}.{microseconds:06d}Z"


# Many readings share a second; formatting it is the dear part.
@lru_cache(maxsize=4)
def _second_text(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
