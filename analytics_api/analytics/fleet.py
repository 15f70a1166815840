"""`GET /v1/analytics/fleet` and `/fleet/vehicles`: the whole fleet in numbers, and its table, the worst first.

Both come from one computed fleet that lives for a few seconds, so they agree with each other and a crowd of dashboards
costs one query. A cursor names the computed fleet that its page came from, which is kept for the pages after it: no
vehicle comes twice or is missing, whatever arrives meanwhile. Once it is gone the answer is 410, never another fleet.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, cast, get_args

from psycopg.rows import TupleRow
from pydantic import Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.analytics.efficiency import Health
from analytics_api.analytics.figures import VehicleFigures, period_json
from analytics_api.analytics.fleet_figures import FleetPeriod, fleet_figures
from analytics_api.analytics.pairs import PairRules
from analytics_api.analytics.quality import STATUSES, Status
from analytics_api.database.pool import ANSWER_SECONDS_MAX
from analytics_api.database.questions import Database
from analytics_api.http import parameters
from analytics_api.http.answers import answer, json_response, number
from analytics_api.http.cursors import page_of, read_cursor, write_cursor
from analytics_api.http.errors import GoneError, InvalidParameterError, UnavailableError
from telemetry.readings import DeviceId

CACHE_SECONDS = 5.0
# For those who go through the pages slowly while others look at the latest fleet every few seconds.
FLEETS_KEPT_MAX = 64
VEHICLES_KEPT_MAX = 500_000  # some VEHICLE_BYTES each
# A fleet takes a connection for as long as all others together: the rest stay for those who ask for one device.
COMPUTED_AT_ONCE_MAX = 3
# Others wait for their turn, as long as their answer may take; of more than that none would get there in time.
UNDER_WAY_MAX = 16

WORST_FIRST: dict[Health | Status, float | None] = {
    "CRITICAL": 0, "WARNING": 1, "HEALTHY": 2, "UNKNOWN": None,
    "impossible": 0, "partial": 1, "ok": 2,
}  # fmt: skip
"""What the table is sorted by where the value is a word; None is last in both orders."""
SORTS: dict[str, Callable[[VehicleFigures], float | None]] = {
    "efficiency": lambda vehicle: vehicle.efficiency.judged,
    "totalAcConsumed": lambda vehicle: vehicle.ac_kwh,
    "totalDcDelivered": lambda vehicle: vehicle.dc_kwh,
    "avgBatteryTemp": lambda vehicle: vehicle.temperature,
    "health": lambda vehicle: WORST_FIRST[vehicle.efficiency.health],
    "quality": lambda vehicle: WORST_FIRST[vehicle.quality.status],
}
ORDERS = ("asc", "desc")
FILTERS: dict[str, tuple[Sequence[str], Callable[[VehicleFigures], str]]] = {
    "health": (get_args(Health), lambda vehicle: vehicle.efficiency.health),
    "quality": (STATUSES, lambda vehicle: vehicle.quality.status),
}
"""What the table can be narrowed to: the words, and which of them a vehicle has."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Key = tuple[bool, float, str]
# The computed fleet, the last row's value and id.
_CURSOR: TypeAdapter[tuple[object, ...]] = TypeAdapter(
    tuple[Annotated[str, Field(strict=True, max_length=32)], _Finite | None, DeviceId]
)


@dataclass
class Fleet:
    """What was computed for a period, and when (the event loop's clock)."""

    name: str
    """In cursors; no other fleet ever has it."""
    period: FleetPeriod
    vehicles: list[VehicleFigures]
    summary: dict[str, object]
    computed_at: float
    is_latest: bool
    """Asked for as the latest, not for an end that was given."""
    is_paged: bool = False
    """Somebody has come for a page after the first."""


class Fleets:
    """Computed fleets: fresh ones are shared, one being computed is waited for, some are kept for their pages."""

    def __init__(self, database: Database, pairs: PairRules) -> None:
        self._database = database
        self._pairs = pairs
        self._kept: OrderedDict[str, Fleet] = OrderedDict()  # the least recently used first
        self._turns = asyncio.Semaphore(COMPUTED_AT_ONCE_MAX)
        self._computing: dict[tuple[int, datetime | None], asyncio.Task[Fleet]] = {}

    async def over(self, hours: int, end: datetime | None) -> Fleet:
        """The fleet until `end`, computed CACHE_SECONDS ago at most; None: until now, or until so long ago. Raises
        UnavailableError.
        """
        for fleet in reversed(self._kept.values()):
            wanted = fleet.is_latest if end is None else fleet.period.end == end
            if fleet.period.hours == hours and wanted and self._is_fresh(fleet):
                return fleet
        return await self._computed(hours, end)

    def kept(self, name: str) -> Fleet:
        """The fleet that a cursor names. Raises GoneError."""
        fleet = self._kept.get(name)
        if fleet is None:
            raise GoneError("The fleet of this cursor is not kept any more: leave the cursor out to begin again.")
        fleet.is_paged = True
        self._kept.move_to_end(name)
        return fleet

    async def _computed(self, hours: int, end: datetime | None) -> Fleet:
        task = self._computing.get((hours, end))
        if task is None:
            if len(self._computing) >= UNDER_WAY_MAX:
                raise UnavailableError("The fleet is being computed for other periods; repeat the request.")
            period = FleetPeriod(hours, end or datetime.now(UTC))
            task = asyncio.create_task(self._compute(period, is_latest=end is None), name="fleet")
            self._computing[hours, end] = task
            task.add_done_callback(lambda done: self._ended(done, (hours, end)))
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await asyncio.shield(task)  # one who leaves does not end it for the others
        except TimeoutError:
            raise UnavailableError(
                f"The fleet over {hours} hours is still being computed; repeat the request."
            ) from None

    async def _compute(self, period: FleetPeriod, *, is_latest: bool) -> Fleet:
        async with self._turns:
            rows = await fleet_figures(self._database, self._pairs.convention, period)
        vehicles, summary = await asyncio.to_thread(_judged, period, rows, self._pairs.tolerance)
        now = asyncio.get_running_loop().time()
        fleet = Fleet(secrets.token_urlsafe(9), period, vehicles, summary, now, is_latest)
        self._kept[fleet.name] = fleet
        self._keep_few()
        return fleet

    def _keep_few(self) -> None:
        """Those that nobody went on with go first, then those that were used least recently; never the newest."""
        *older, _ = self._kept.values()
        older.sort(key=lambda fleet: fleet.is_paged)  # stable: by use within each
        vehicles = sum(len(fleet.vehicles) for fleet in self._kept.values())
        for fleet in older:
            if len(self._kept) <= FLEETS_KEPT_MAX and vehicles <= VEHICLES_KEPT_MAX:
                return
            vehicles -= len(self._kept.pop(fleet.name).vehicles)

    def _is_fresh(self, fleet: Fleet) -> bool:
        return asyncio.get_running_loop().time() - fleet.computed_at < CACHE_SECONDS

    def _ended(self, task: asyncio.Task[Fleet], key: tuple[int, datetime | None]) -> None:
        self._computing.pop(key)
        if not task.cancelled():
            task.exception()  # where everybody has left, it is nobody's


def routes(database: Database, pairs: PairRules) -> list[BaseRoute]:
    fleets = Fleets(database, pairs)
    return [
        Route("/v1/analytics/fleet", partial(fleet_summary, fleets)),
        Route("/v1/analytics/fleet/vehicles", partial(fleet_table, fleets)),
    ]


async def fleet_summary(fleets: Fleets, request: Request) -> Response:
    """Sums in kWh, mean and total efficiency, how many vehicles are how healthy."""
    hours, end = _period_given(request)
    return answer((await fleets.over(hours or parameters.HOURS_DEFAULT, end)).summary)


async def fleet_table(fleets: Fleets, request: Request) -> Response:
    """A page of the fleet's vehicles; those without a value come last in both orders."""
    hours, end = _period_given(request)
    limit = parameters.limit(request)
    sort, order = _one_of(request, "sort", tuple(SORTS)), _one_of(request, "order", ORDERS)
    wanted = {name: _some_of(request, name, words) for name, (words, _) in FILTERS.items()}
    listing = " ".join(["fleet", sort, order, *(",".join(words) for words in wanted.values())])
    value_of, sign = SORTS[sort], 1 if order == "asc" else -1

    def key_of(value: float | None, vehicle_id: str) -> _Key:
        return value is None, 0.0 if value is None else sign * value, vehicle_id

    cursor = parameters.cursor(request)
    if cursor is None:
        after = None
        fleet = await fleets.over(hours or parameters.HOURS_DEFAULT, end)
    else:
        # The shape says so; mypy cannot follow it through the adapter.
        name, value, vehicle_id = cast("tuple[str, float | None, str]", read_cursor(listing, _CURSOR, cursor))
        after = key_of(value, vehicle_id)
        fleet = fleets.kept(name)
        _check_unchanged(fleet.period, hours, end)

    def smallest() -> list[VehicleFigures]:
        rest = (
            vehicle
            for vehicle in fleet.vehicles
            if all(word_of(vehicle) in wanted[name] for name, (_, word_of) in FILTERS.items())
            and (after is None or key_of(value_of(vehicle), vehicle.vehicle_id) > after)
        )
        return heapq.nsmallest(limit + 1, rest, key=lambda each: key_of(value_of(each), each.vehicle_id))

    def cursor_after(last: VehicleFigures) -> str:
        return write_cursor(listing, [fleet.name, value_of(last), last.vehicle_id])

    page, next_cursor = page_of(await asyncio.to_thread(smallest), limit, cursor_after)
    return json_response(
        200,
        {
            "success": True,
            "data": [vehicle.as_json() for vehicle in page],
            "nextCursor": next_cursor,
            "period": _period(fleet.period),
        },
    )


def _period_given(request: Request) -> tuple[int | None, datetime | None]:
    """`hours` and `end`, None where they are not given; together a time that a calendar has."""
    hours = parameters.whole_number(request, "hours", 1, parameters.HOURS_MAX)
    end = parameters.moment(request, "end")
    if end is not None:
        parameters.window_before("end", end, timedelta(hours=(hours or parameters.HOURS_DEFAULT) + 1))
    return hours, end


def _one_of(request: Request, name: str, values: tuple[str, ...]) -> str:
    """The parameter; the first of `values` where it is not given."""
    text = parameters.only(request, name)
    if text is None:
        return values[0]
    if text not in values:
        raise InvalidParameterError(name, f"must be one of {', '.join(values)}")
    return text


def _some_of(request: Request, name: str, values: Sequence[str]) -> Sequence[str]:
    """Those of `values` that the parameter lists with commas between them; all where it is not given."""
    text = parameters.only(request, name)
    if text is None:
        return values
    given = text.split(",")
    if not set(given) <= set(values):
        raise InvalidParameterError(name, f"must be one or more of {', '.join(values)}, with commas between them")
    return [value for value in values if value in given]


def _check_unchanged(period: FleetPeriod, hours: int | None, end: datetime | None) -> None:
    if hours not in (None, period.hours):
        raise InvalidParameterError("hours", f"must stay {period.hours}, as on the page before, or be left out")
    if end not in (None, period.end):
        raise InvalidParameterError("end", "must stay as on the page before, or be left out")


def _judged(
    period: FleetPeriod, rows: Sequence[TupleRow], tolerance: float
) -> tuple[list[VehicleFigures], dict[str, object]]:
    vehicles = [VehicleFigures.of(row, tolerance) for row in rows]
    judged = [vehicle for vehicle in vehicles if vehicle.efficiency.judged is not None]
    ratios = [vehicle.efficiency.ratio or 0.0 for vehicle in judged]
    # All AC is of the time in which a meter fed the vehicle; of its DC only that of the same time is compared with it.
    ac = math.fsum(vehicle.ac_kwh for vehicle in judged)
    dc = math.fsum(vehicle.compared_dc_kwh for vehicle in judged)
    health = Counter(vehicle.efficiency.health for vehicle in vehicles)
    return vehicles, {
        "totalVehicles": len(vehicles),
        "averageEfficiency": round(math.fsum(ratios) / len(ratios), 4) if ratios else None,
        "fleetEfficiency": round(dc / ac, 4) if judged else None,
        "criticalCount": health["CRITICAL"],
        "warningCount": health["WARNING"],
        "healthyCount": health["HEALTHY"],
        "unknownCount": health["UNKNOWN"],
        "impossibleCount": sum(vehicle.efficiency.impossible for vehicle in vehicles),
        "partialCount": sum(vehicle.quality.status == "partial" for vehicle in vehicles),
        "totalAcConsumed": number(round(math.fsum(vehicle.ac_kwh for vehicle in vehicles), 4)),
        "totalDcDelivered": number(round(math.fsum(vehicle.dc_kwh for vehicle in vehicles), 4)),
        "period": _period(period),
    }


def _period(period: FleetPeriod) -> dict[str, str]:
    hours = "1 full hour" if period.hours == 1 else f"{period.hours} full hours"
    return period_json(period.start, period.end, f"{hours} and the running one")
