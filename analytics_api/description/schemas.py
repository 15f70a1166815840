"""The answers of the API as models: what /openapi.json describes, and what tests hold the answers against.

Those about one kind of reading are made in `kind_schemas`; those here that name vehicle and meter are
about pairs of them. Nothing here runs while a request is answered; the modules of the routes build their answers
themselves. A field that no model names is an error of the API, never of the client, so every model refuses it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from analytics_api.http.parameters import LIMIT_MAX
from telemetry.readings import DeviceId

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


class Accepted(Exact):
    """What the broker has taken of an array."""

    accepted: Annotated[int, Field(ge=1)]


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


class Page(Success):
    """A page of a list."""

    nextCursor: NextCursor | None  # noqa: N815


class MeterLinkAnswer(Success):
    data: MeterLink


class MeterLinkList(Success):
    nextCursor: None  # noqa: N815 - all of them are on this page
    data: list[MeterLink]


class FleetVehiclePage(Page):
    period: Period
    data: Annotated[list[FleetVehicle], Field(max_length=LIMIT_MAX)]


class PerformanceAnswer(Success):
    data: Performance


class FleetAnswer(Success):
    data: Fleet


class AliveAnswer(Success):
    data: Alive


class ReadyAnswer(Success):
    data: Ready
