"""Which meter feeds a vehicle.

The convention swaps one prefix for another, `VEH-:METER-`: VEH-001 is fed by METER-001. Nobody else may guess.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MeterConvention:
    """A vehicle prefix and the meter prefix that takes its place."""

    vehicle_prefix: str
    meter_prefix: str

    @classmethod
    def parse(cls, text: str) -> MeterConvention | None:
        """METER_ID_CONVENTION, taken apart; None where it is empty: then no vehicle has a meter by its name."""
        vehicle_prefix, _, meter_prefix = text.partition(":")
        return cls(vehicle_prefix, meter_prefix) if text else None

    def meter_of(self, vehicle_id: str) -> str | None:
        """The meter's id; None for a vehicle that is not named after the convention."""
        if not vehicle_id.startswith(self.vehicle_prefix):
            return None
        return self.meter_prefix + vehicle_id.removeprefix(self.vehicle_prefix)
