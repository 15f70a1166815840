"""`GET /v1/analytics/fleet` and `/fleet/vehicles`: the whole fleet in numbers, and its table, the worst first.

Both come from one computed fleet that lives for a few seconds, so they agree with each other and a crowd of dashboards
costs one query. A cursor names the moment that its period ended, so all pages are about the same time.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, cast

from psycopg.rows import TupleRow
from pydantic import Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.analytics.fleet_figures import FleetPeriod, VehicleFigures, fleet_figures
from analytics_api.analytics.meters import MeterConvention
from analytics_api.database.pool import ANSWER_SECONDS_MAX
from analytics_api.database.questions import Database
from analytics_api.http import parameters
from analytics_api.http.answers import answer, json_response, number, timestamp
from analytics_api.http.cursors import from_microseconds, microseconds, read_cursor, write_cursor
from analytics_api.http.errors import InvalidParameterError, UnavailableError
from telemetry.readings import DeviceId

CACHE_SECONDS = 5.0
FLEETS_KEPT_MAX = 8  # some 3 MB each for 10,000 vehicles
# A fleet takes a connection for as long as all others together: the rest stay for those who ask for one device.
COMPUTED_AT_ONCE_MAX = 3

SORTS: dict[str, Callable[[VehicleFigures], float | None]] = {
    "efficiency": lambda vehicle: vehicle.efficiency.ratio,
    "totalAcConsumed": lambda vehicle: vehicle.ac_kwh,
    "totalDcDelivered": lambda vehicle: vehicle.dc_kwh,
    "avgBatteryTemp": lambda vehicle: vehicle.temperature,
}
ORDERS = ("asc", "desc")

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Key = tuple[bool, float, str]
# hours, end, the last row's value and id.
_CURSOR: TypeAdapter[tuple[object, ...]] = TypeAdapter(
    tuple[
        Annotated[int, Field(strict=True, ge=1, le=parameters.HOURS_MAX)],
        Annotated[int, Field(strict=True, ge=0)],
        _Finite | None,
        DeviceId,
    ]
)


@dataclass(frozen=True)
class Fleet:
    """What was computed for a period, and when (the event loop's clock)."""

    period: FleetPeriod
    vehicles: list[VehicleFigures]
    summary: dict[str, object]
    computed_at: float
    is_latest: bool
    """Asked for as the latest, not for a page of long ago."""


class Fleets:
    """Computed fleets: fresh ones are shared, one that is being computed is waited for, few are kept."""

    def __init__(self, database: Database, convention: MeterConvention | None) -> None:
        self._database = database
        self._convention = convention
        self._kept: OrderedDict[FleetPeriod, Fleet] = OrderedDict()
        self._computing: dict[tuple[int, datetime | None], asyncio.Task[Fleet]] = {}

    async def latest(self, hours: int) -> Fleet:
        """The fleet until now, or until at most CACHE_SECONDS ago. Raises UnavailableError."""
        for fleet in reversed(self._kept.values()):
            if fleet.period.hours == hours and fleet.is_latest and self._is_fresh(fleet):
                return fleet
        return await self._computed(hours, None)

    async def at(self, period: FleetPeriod) -> Fleet:
        """The fleet until the end of `period`, however long ago that was. Raises UnavailableError."""
        fleet = self._kept.get(period)
        if fleet is not None and self._is_fresh(fleet):
            return fleet
        return await self._computed(period.hours, period.end)

    async def _computed(self, hours: int, end: datetime | None) -> Fleet:
        task = self._computing.get((hours, end))
        if task is None:
            if len(self._computing) >= COMPUTED_AT_ONCE_MAX:
                raise UnavailableError("The fleet is being computed for other periods; repeat the request.")
            period = FleetPeriod(hours, end or datetime.now(UTC))
            task = asyncio.create_task(self._compute(period, is_latest=end is None), name="fleet")
            self._computing[hours, end] = task
            task.add_done_callback(lambda done: self._ended(done, (hours, end)))
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await asyncio.shield(task)  # whoever leaves does not end it for the others
        except TimeoutError:
            raise UnavailableError(
                f"The fleet over {hours} hours is still being computed; repeat the request."
            ) from None

    async def _compute(self, period: FleetPeriod, *, is_latest: bool) -> Fleet:
        rows = await fleet_figures(self._database, self._convention, period)
        vehicles, summary = await asyncio.to_thread(_judged, period, rows)
        fleet = Fleet(period, vehicles, summary, asyncio.get_running_loop().time(), is_latest)
        self._kept.pop(period, None)
        self._kept[period] = fleet
        while len(self._kept) > FLEETS_KEPT_MAX:
            self._kept.popitem(last=False)
        return fleet

    def _is_fresh(self, fleet: Fleet) -> bool:
        return asyncio.get_running_loop().time() - fleet.computed_at < CACHE_SECONDS

    def _ended(self, task: asyncio.Task[Fleet], key: tuple[int, datetime | None]) -> None:
        self._computing.pop(key)
        if not task.cancelled():
            task.exception()  # where everybody has left, it is nobody's


def routes(database: Database, convention: MeterConvention | None) -> list[BaseRoute]:
    """The routes of this module."""
    fleets = Fleets(database, convention)
    return [
        Route("/v1/analytics/fleet", partial(fleet_summary, fleets)),
        Route("/v1/analytics/fleet/vehicles", partial(fleet_table, fleets)),
    ]


async def fleet_summary(fleets: Fleets, request: Request) -> Response:
    """Sums in kWh, mean and total efficiency, how many vehicles are how healthy."""
    hours = parameters.whole_number(request, "hours", 1, parameters.HOURS_MAX) or parameters.HOURS_DEFAULT
    return answer((await fleets.latest(hours)).summary)


async def fleet_table(fleets: Fleets, request: Request) -> Response:
    """A page of the fleet's vehicles; those without a value come last in both orders."""
    hours = parameters.whole_number(request, "hours", 1, parameters.HOURS_MAX)
    limit = parameters.limit(request)
    sort, order = _one_of(request, "sort", tuple(SORTS)), _one_of(request, "order", ORDERS)
    listing = f"fleet {sort} {order}"
    value_of, sign = SORTS[sort], 1 if order == "asc" else -1

    def key_of(value: float | None, vehicle_id: str) -> _Key:
        return value is None, 0.0 if value is None else sign * value, vehicle_id

    cursor = parameters.cursor(request)
    if cursor is None:
        after = None
        fleet = await fleets.latest(hours or parameters.HOURS_DEFAULT)
    else:
        period, after = _position(listing, cursor, hours, key_of)
        fleet = await fleets.at(period)
    page = await asyncio.to_thread(_page, fleet, lambda each: key_of(value_of(each), each.vehicle_id), after, limit + 1)
    following = None
    if len(page) > limit:
        last = page[limit - 1]
        end = microseconds(fleet.period.end)
        following = write_cursor(listing, [fleet.period.hours, end, value_of(last), last.vehicle_id])
    return json_response(
        200,
        {
            "success": True,
            "data": [_item(vehicle) for vehicle in page[:limit]],
            "nextCursor": following,
            "period": _period(fleet.period),
        },
    )


def _one_of(request: Request, name: str, values: tuple[str, ...]) -> str:
    """The parameter; the first of `values` where it is not given."""
    text = parameters.only(request, name)
    if text is None:
        return values[0]
    if text not in values:
        raise InvalidParameterError(name, f"must be one of {', '.join(values)}")
    return text


def _position(
    listing: str, cursor: str, hours: int | None, key_of: Callable[[float | None, str], _Key]
) -> tuple[FleetPeriod, _Key]:
    # The shape says so; mypy cannot follow it through the adapter.
    position = cast("tuple[int, int, float | None, str]", read_cursor(listing, _CURSOR, cursor))
    cursor_hours, end_us, value, vehicle_id = position
    if hours not in (None, cursor_hours):
        raise InvalidParameterError("hours", f"must stay {cursor_hours}, as on the page before, or be left out")
    end = from_microseconds(end_us)
    if end > datetime.now(UTC):
        raise InvalidParameterError("cursor", "is not one that this list gave; leave it out to begin anew")
    return FleetPeriod(cursor_hours, end), key_of(value, vehicle_id)


def _page(fleet: Fleet, key: Callable[[VehicleFigures], _Key], after: _Key | None, rows: int) -> list[VehicleFigures]:
    rest = fleet.vehicles if after is None else [vehicle for vehicle in fleet.vehicles if key(vehicle) > after]
    return sorted(rest, key=key)[:rows]


def _judged(period: FleetPeriod, rows: Sequence[TupleRow]) -> tuple[list[VehicleFigures], dict[str, object]]:
    vehicles = [VehicleFigures.of(row) for row in rows]
    known = [vehicle for vehicle in vehicles if vehicle.efficiency.ratio is not None]
    ratios = [vehicle.efficiency.ratio or 0.0 for vehicle in known]
    known_ac = math.fsum(vehicle.ac_kwh for vehicle in known)
    health = Counter(vehicle.efficiency.health for vehicle in vehicles)
    return vehicles, {
        "totalVehicles": len(vehicles),
        "averageEfficiency": round(math.fsum(ratios) / len(ratios), 4) if ratios else None,
        "fleetEfficiency": round(math.fsum(vehicle.dc_kwh for vehicle in known) / known_ac, 4) if known else None,
        "criticalCount": health["CRITICAL"],
        "warningCount": health["WARNING"],
        "healthyCount": health["HEALTHY"],
        "unknownCount": health["UNKNOWN"],
        "totalAcConsumed": number(round(math.fsum(vehicle.ac_kwh for vehicle in vehicles), 4)),
        "totalDcDelivered": number(round(math.fsum(vehicle.dc_kwh for vehicle in vehicles), 4)),
        "period": _period(period),
    }


def _period(period: FleetPeriod) -> dict[str, str]:
    return {"start": timestamp(period.start), "end": timestamp(period.end)}


def _item(vehicle: VehicleFigures) -> dict[str, object]:
    temperature = vehicle.temperature
    return {
        "vehicleId": vehicle.vehicle_id,
        "totalAcConsumed": number(round(vehicle.ac_kwh, 4)),
        "totalDcDelivered": number(round(vehicle.dc_kwh, 4)),
        "efficiencyRatio": vehicle.efficiency.rounded,
        "efficiencyPercent": vehicle.efficiency.percent,
        "avgBatteryTemp": None if temperature is None else number(round(temperature, 2)),
        "readingsCount": {"vehicle": vehicle.vehicle_readings, "meter": vehicle.meter_readings},
        "healthStatus": vehicle.efficiency.health,
    }
