"""What is known of one vehicle over a period, alone or as a line of the fleet: one row, judged, and its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import TupleRow

from analytics_api.analytics.efficiency import Efficiency
from analytics_api.analytics.quality import Quality, Reason, coverage, is_gap
from analytics_api.http.answers import number, timestamp


@dataclass(frozen=True, slots=True)
class VehicleFigures:
    """One vehicle's sums over a period, not rounded: kWh, °C, readings."""

    vehicle_id: str
    ac_kwh: float
    dc_kwh: float
    temperature: float | None
    vehicle_readings: int
    meter_readings: int
    efficiency: Efficiency
    quality: Quality

    @classmethod
    def of(cls, row: TupleRow, tolerance: float) -> VehicleFigures:
        """A row of PERFORMANCE or FLEET, judged; `tolerance` is EFFICIENCY_TOLERANCE."""
        (
            vehicle_id, ac_kwh, dc_kwh, temperature, vehicle_readings, meter_readings,
            paired_dc_kwh, differs, vehicle_expected, meter_expected, annulled,
        ) = row  # fmt: skip
        paired = (ac_kwh, paired_dc_kwh) if differs else None
        efficiency = Efficiency.of(ac_kwh, paired_dc_kwh if differs else dc_kwh, tolerance)
        of_vehicle, of_meter = coverage(vehicle_readings, vehicle_expected), coverage(meter_readings, meter_expected)

        def reasons() -> Iterator[Reason]:
            if is_gap(of_meter):
                yield "meter_gap"
            if is_gap(of_vehicle):
                yield "vehicle_gap"
            if efficiency.impossible:
                yield "ratio_above_one"
            if differs:
                yield "link_changed"
            if annulled:
                yield "annulled"

        quality = Quality(of_vehicle, of_meter, tuple(reasons()), paired)
        return cls(vehicle_id, ac_kwh, dc_kwh, temperature, vehicle_readings, meter_readings, efficiency, quality)

    @property
    def compared_dc_kwh(self) -> float:
        """The DC energy of the time in which a meter fed the vehicle: that of the ratio."""
        return self.dc_kwh if self.quality.paired is None else self.quality.paired[1]

    def as_json(self) -> dict[str, object]:
        """The contract's form, without the period."""
        return {
            "vehicleId": self.vehicle_id,
            "totalAcConsumed": number(round(self.ac_kwh, 4)),
            "totalDcDelivered": number(round(self.dc_kwh, 4)),
            "efficiencyRatio": self.efficiency.rounded,
            "efficiencyPercent": self.efficiency.percent,
            "avgBatteryTemp": None if self.temperature is None else number(round(self.temperature, 2)),
            "readingsCount": {"vehicle": self.vehicle_readings, "meter": self.meter_readings},
            "healthStatus": self.efficiency.health,
            "quality": self.quality.as_json(),
        }


def period_json(start: datetime, end: datetime, covers: str) -> dict[str, str]:
    """[start, end), and in words which of the two "24 hours" it is."""
    return {"start": timestamp(start), "end": timestamp(end), "covers": covers}
