"""What the settings say of pairs: which meter feeds a vehicle by its name, and how much measuring may be wrong.

The convention swaps one prefix for another, `VEH-:METER-`: VEH-001 is fed by METER-001. Nobody else may guess. It holds
until a vehicle's first link, and never while its meter is linked to another one (`performance`, `fleet_figures`).
"""

from __future__ import annotations

from dataclasses import dataclass

from config.settings import Settings


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

    def vehicle_of(self, meter_id: str) -> str | None:
        """The vehicle whose meter this is by its name; None where it is nobody's."""
        if not meter_id.startswith(self.meter_prefix):
            return None
        return self.vehicle_prefix + meter_id.removeprefix(self.meter_prefix)


@dataclass(frozen=True)
class PairRules:
    """What the settings say of vehicles and their meters."""

    convention: MeterConvention | None
    tolerance: float
    """How much more DC than AC may be measured, as a share of the AC (EFFICIENCY_TOLERANCE)."""

    @classmethod
    def of(cls, settings: Settings) -> PairRules:
        """METER_ID_CONVENTION and EFFICIENCY_TOLERANCE."""
        return cls(MeterConvention.parse(settings.meter_id_convention), settings.efficiency_tolerance)
