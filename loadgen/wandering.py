"""The model of every kind that has none of its own: each measure wanders within what its declaration calls typical.

It knows nothing of what a device does, so no measure depends on another or on how long the time between readings is.
Energy never goes below zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from telemetry.kinds import Kind, Measure

# Of the typical range, at most that much between two readings: a curve, not noise.
STEP_SHARE: Final = 0.05
ENERGY_DECIMALS: Final = 6
DECIMALS: Final = 2


class Wandering:
    """One device."""

    def __init__(self, kind: Kind, rng: Random) -> None:
        self.family = kind.name
        self._measures = [(measure, *bounds_of(measure)) for measure in kind.measures]
        self._values = [rng.uniform(least, most) for _, least, most in self._measures]

    def measure(self, _seconds: float, rng: Random) -> Mapping[str, tuple[float, ...]]:
        """The next reading's values, by the name of the kind."""
        read = []
        for place, (measure, least, most) in enumerate(self._measures):
            step = (most - least) * STEP_SHARE
            value = min(max(self._values[place] + rng.uniform(-step, step), least), most)
            self._values[place] = value
            rounded = round(value, ENERGY_DECIMALS if measure.use == "sum" else DECIMALS)
            read.append(min(max(rounded, least), most))
        return {self.family: tuple(read)}


def bounds_of(measure: Measure) -> tuple[float, float]:
    """Where a simulated value stays: what is typical, as far as it may be sent at all."""
    least, most = (float(min(max(bound, measure.least), measure.most)) for bound in measure.typical)
    return (max(0.0, least), max(0.0, most)) if measure.use == "sum" else (least, most)
