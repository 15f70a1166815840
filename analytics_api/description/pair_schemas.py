"""The models of answers about a vehicle and the meter that feeds it: energies, health, the fleet, links.

They name both kinds of reading, because they are about pairs of them. See `schemas`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from analytics_api.analytics.efficiency import Health
from analytics_api.analytics.quality import Reason, Status
from analytics_api.description.schemas import Count, Exact, Moment, Page, Success
from analytics_api.http.parameters import LIMIT_MAX
from telemetry.readings import DeviceId

Kwh = Annotated[float, Field(ge=0, description="kWh, to 4 decimals")]
Ratio = Annotated[float, Field(ge=0, description="DC/AC; null where no AC energy is known")]
Percent = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]{2}%$", examples=["84.72%"])]
Share = Annotated[float, Field(ge=0, le=1, description="0 to 1, to 4 decimals; null where nothing can be expected")]


class Period(Exact):
    """[start, end), and in words which hours these are."""

    start: Moment
    end: Moment
    covers: str


class Coverage(Exact):
    """Readings received of those to be expected at the device's usual interval; a meter's while it fed the vehicle."""

    vehicle: Share | None
    meter: Share | None


class Paired(Exact):
    """The energies of the ratio: those of the time in which a meter is known to have fed the vehicle."""

    ac: Kwh
    dc: Kwh


class Quality(Exact):
    """How far the figures beside it can be relied on."""

    status: Status
    coverage: Coverage
    reasons: list[Reason]
    paired: Annotated[Paired | None, Field(description="left out where the totals are those of the ratio")] = None


class ReadingsCount(Exact):
    """How many readings the totals are made of."""

    vehicle: Count
    meter: Count


class FleetVehicle(Exact):
    """A line of the fleet's table."""

    vehicleId: DeviceId  # noqa: N815
    totalAcConsumed: Kwh  # noqa: N815
    totalDcDelivered: Kwh  # noqa: N815
    efficiencyRatio: Ratio | None  # noqa: N815
    efficiencyPercent: Percent | None  # noqa: N815
    avgBatteryTemp: Annotated[float, Field(description="°C, to 2 decimals")] | None  # noqa: N815
    readingsCount: ReadingsCount  # noqa: N815
    healthStatus: Health  # noqa: N815
    quality: Quality


class Performance(FleetVehicle):
    """Energy in, energy out and health of one vehicle over a period."""

    period: Period


class Fleet(Exact):
    """All vehicles that have a status, summed and judged."""

    totalVehicles: Count  # noqa: N815
    averageEfficiency: Ratio | None  # noqa: N815
    fleetEfficiency: Ratio | None  # noqa: N815
    criticalCount: Count  # noqa: N815
    warningCount: Count  # noqa: N815
    healthyCount: Count  # noqa: N815
    unknownCount: Count  # noqa: N815
    impossibleCount: Annotated[Count, Field(description="of the unknown: more DC than AC; not in the averages")]  # noqa: N815
    partialCount: Count  # noqa: N815
    totalAcConsumed: Kwh  # noqa: N815
    totalDcDelivered: Kwh  # noqa: N815
    period: Period


class MeterLink(Exact):
    """Which meter feeds a vehicle: [validFrom, validTo), null: until further notice."""

    vehicleId: DeviceId  # noqa: N815
    meterId: DeviceId  # noqa: N815
    validFrom: Moment  # noqa: N815
    validTo: Moment | None  # noqa: N815


class ToldMeterLink(MeterLink):
    warnings: Annotated[list[str], Field(description="what makes the link doubtful")]


class MeterLinkAnswer(Success):
    message: Annotated[str, Field(description="what the request changed, another link too")]
    data: ToldMeterLink


class DeletedMeterLinkAnswer(Success):
    message: Annotated[str, Field(description="what feeds the vehicle at that time now")]
    data: MeterLink


class MeterLinkList(Success):
    nextCursor: None  # noqa: N815 - all of them are on this page
    data: list[ToldMeterLink]


class FleetVehiclePage(Page):
    period: Period
    data: Annotated[list[FleetVehicle], Field(max_length=LIMIT_MAX)]


class PerformanceAnswer(Success):
    data: Performance


class FleetAnswer(Success):
    data: Fleet
