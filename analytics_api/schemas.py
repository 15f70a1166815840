"""The answers of the API as models: what /openapi.json describes, and what tests hold the answers against.

Nothing here runs while a request is answered; the modules of the routes build their answers themselves. A field that
no model names is an error of the API, never of the client, so every model refuses it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from analytics_api.parameters import LIMIT_MAX
from analytics_api.stream import CHANGED_MAX
from telemetry.kinds import METER, VEHICLE
from telemetry.readings import DeviceId, payload_type

Moment = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
        description="UTC, with milliseconds",
        examples=["2026-01-31T14:00:00.000Z"],
    ),
]
# A client that trusts a schema to the letter would refuse what a device may send but JSON cannot hold.
Measured = float | None
Count = Annotated[int, Field(ge=0)]
Kwh = Annotated[float, Field(ge=0, description="kWh, to 4 decimals")]
Ratio = Annotated[float, Field(ge=0, description="DC/AC; null where no AC energy is known")]
Percent = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]{2}%$", examples=["84.72%"])]
Health = Literal["HEALTHY", "WARNING", "CRITICAL", "UNKNOWN"]
NextCursor = Annotated[str, Field(description="`cursor` of the next page; null on the last one")]


class Exact(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", json_schema_mode="serialization")  # type: ignore[typeddict-unknown-key]


class Problem(Exact):
    """One wrong field or parameter."""

    field: Annotated[str, Field(description="its name; `2.voltage` inside an array", examples=["hours"])]
    message: str


class Failure(Exact):
    """Every error."""

    success: Literal[False]
    message: Annotated[str, Field(description="one sentence for a person")]
    errors: list[Problem]


class Period(Exact):
    """[start, end)."""

    start: Moment
    end: Moment


class MeterStatus(Exact):
    """A meter's newest reading: AC energy (kWh) since the reading before it, voltage (V)."""

    meterId: DeviceId  # noqa: N815 - the contract's names, here and below
    kwhConsumedAc: Measured  # noqa: N815
    voltage: Measured
    lastReading: Moment  # noqa: N815
    lastUpdated: Moment  # noqa: N815


class VehicleStatus(Exact):
    """A vehicle's newest reading: state of charge (%), DC energy (kWh), battery temperature (°C)."""

    vehicleId: DeviceId  # noqa: N815
    soc: Measured
    kwhDeliveredDc: Measured  # noqa: N815
    batteryTemp: Measured  # noqa: N815
    lastReading: Moment  # noqa: N815
    lastUpdated: Moment  # noqa: N815


class MeterReading(Exact):
    """A stored reading of a meter."""

    meterId: DeviceId  # noqa: N815
    kwhConsumedAc: Measured  # noqa: N815
    voltage: Measured
    timestamp: Moment
    ingestedAt: Moment  # noqa: N815


class VehicleReading(Exact):
    """A stored reading of a vehicle."""

    vehicleId: DeviceId  # noqa: N815
    soc: Measured
    kwhDeliveredDc: Measured  # noqa: N815
    batteryTemp: Measured  # noqa: N815
    timestamp: Moment
    ingestedAt: Moment  # noqa: N815


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
    totalAcConsumed: Kwh  # noqa: N815
    totalDcDelivered: Kwh  # noqa: N815
    period: Period


class FleetEvent(Exact):
    """The `data` of an event `fleet` of the stream: the fleet, and the devices that changed."""

    time: Moment
    totalMeters: Count  # noqa: N815
    totalVehicles: Count  # noqa: N815
    silentDevices: Count  # noqa: N815
    meters: Annotated[list[MeterStatus], Field(max_length=CHANGED_MAX)]
    vehicles: Annotated[list[VehicleStatus], Field(max_length=CHANGED_MAX)]
    more: Annotated[int, Field(ge=0, description="changed devices that are not in this event")]


class Accepted(Exact):
    """What the broker has taken of an array."""

    accepted: Annotated[int, Field(ge=1)]


class MeterTaken(Exact):
    """The reading that the broker has taken."""

    meterId: DeviceId  # noqa: N815
    timestamp: Moment


class VehicleTaken(Exact):
    """The reading that the broker has taken."""

    vehicleId: DeviceId  # noqa: N815
    timestamp: Moment


class MeterLink(Exact):
    """Which meter feeds a vehicle: [validFrom, validTo), null: until further notice."""

    vehicleId: DeviceId  # noqa: N815
    meterId: DeviceId  # noqa: N815
    validFrom: Moment  # noqa: N815
    validTo: Moment | None  # noqa: N815


class Alive(Exact):
    """The process lives."""

    status: Literal["alive"]


class Ready(Exact):
    """The database answers and its schema is current."""

    status: Literal["ready"]
    schemaVersion: Annotated[int, Field(ge=1)]  # noqa: N815


class Success(Exact):
    """Every answer that is no error."""

    success: Literal[True]


class MeterStatusAnswer(Success):
    data: MeterStatus


class VehicleStatusAnswer(Success):
    data: VehicleStatus


class _Page(Success):
    nextCursor: NextCursor | None  # noqa: N815


class MeterStatusPage(_Page):
    data: Annotated[list[MeterStatus], Field(max_length=LIMIT_MAX)]


class VehicleStatusPage(_Page):
    data: Annotated[list[VehicleStatus], Field(max_length=LIMIT_MAX)]


class MeterReadingPage(_Page):
    data: Annotated[list[MeterReading], Field(max_length=LIMIT_MAX)]


class VehicleReadingPage(_Page):
    data: Annotated[list[VehicleReading], Field(max_length=LIMIT_MAX)]


class MeterLinkAnswer(Success):
    data: MeterLink


class MeterLinkList(Success):
    nextCursor: None  # noqa: N815 - all of them are on this page
    data: list[MeterLink]


class FleetVehiclePage(_Page):
    period: Period
    data: Annotated[list[FleetVehicle], Field(max_length=LIMIT_MAX)]


class PerformanceAnswer(Success):
    data: Performance


class FleetAnswer(Success):
    data: Fleet


class MeterAccepted(Success):
    message: str
    data: MeterTaken | Accepted


class VehicleAccepted(Success):
    message: str
    data: VehicleTaken | Accepted


class AliveAnswer(Success):
    data: Alive


class ReadyAnswer(Success):
    data: Ready


_METER_PAYLOAD: Any = payload_type(METER)
_VEHICLE_PAYLOAD: Any = payload_type(VEHICLE)
_SEVERAL = Field(min_length=1)  # and as many as fit into a body


class MeterReadings(RootModel[_METER_PAYLOAD | Annotated[list[_METER_PAYLOAD], _SEVERAL]]):
    """One reading of a meter, or several of any meters: all are taken or none."""


class VehicleReadings(RootModel[_VEHICLE_PAYLOAD | Annotated[list[_VEHICLE_PAYLOAD], _SEVERAL]]):
    """One reading of a vehicle, or several of any vehicles: all are taken or none."""
