"""A charger with the meter before it and the vehicle at it: the one pair of kinds that is simulated together.

What it measures is worked out in `model`; here it is only told apart by kind. It is about meters and vehicles, and no
declaration changes that: a measure that either of them gets needs a place in `model.Measured`.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from random import Random
from typing import Final

from loadgen.model import advance, make_charger, plug_in
from telemetry.kinds import METER, VEHICLE

PAIR: Final = (METER, VEHICLE)

_meter_values = attrgetter(*(measure.column for measure in METER.measures))
_vehicle_values = attrgetter(*(measure.column for measure in VEHICLE.measures))


class Charging:
    """One charger and its battery's way through charging and driving."""

    family = "charging"

    def __init__(self, place: int, rng: Random) -> None:
        """At a place of the fleet, counted from 1."""
        self._charger = make_charger(place, rng)
        self._battery = plug_in(self._charger, rng)

    def measure(self, seconds: float, rng: Random) -> Mapping[str, tuple[float, ...]]:
        """What both devices measure in the next `seconds`, by the name of the kind; also for one that is not there."""
        self._battery, measured = advance(self._charger, self._battery, seconds, rng)
        return {METER.name: _meter_values(measured), VEHICLE.name: _vehicle_values(measured)}
