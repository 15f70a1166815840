"""`GET /v1/analytics/performance/{vehicleId}`: energy in, energy out, and health of one vehicle over a window.

One statement, so the numbers of an answer belong to one moment. It reads both histories from their covering indexes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from psycopg.rows import TupleRow
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.analytics.efficiency import Efficiency
from analytics_api.analytics.meters import MeterConvention
from analytics_api.database.questions import Database
from analytics_api.http.answers import answer, number, timestamp
from analytics_api.http.errors import UnknownDeviceError
from analytics_api.http.parameters import Window, device_id, window

# No row for an unknown vehicle: one that has a status is known, whatever it did in the window. A meter counts for the
# part of the window in which it fed the vehicle; the window stands beside that part, so that no partition outside it
# is read.
PERFORMANCE = """
    SELECT dc.kwh, dc.temperature, dc.readings, ac.kwh, ac.readings
    FROM vehicle_status
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(kwh_delivered_dc), 0) AS kwh, avg(battery_temp) AS temperature, count(*) AS readings
        FROM vehicle_readings_history
        WHERE vehicle_id = %(vehicle_id)s AND ts >= %(start)s AND ts < %(end)s
    ) AS dc
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(part.kwh), 0) AS kwh, coalesce(sum(part.readings), 0)::bigint AS readings
        FROM (
            SELECT meter_id, valid_from AS since, coalesce(valid_to, 'infinity') AS until
            FROM vehicle_meter_links
            WHERE vehicle_id = %(vehicle_id)s
                AND valid_from < %(end)s AND (valid_to IS NULL OR valid_to > %(start)s)
            UNION ALL
            SELECT %(meter_id)s, '-infinity', 'infinity'
            WHERE NOT EXISTS (SELECT FROM vehicle_meter_links WHERE vehicle_id = %(vehicle_id)s)
        ) AS feeds
        CROSS JOIN LATERAL (
            SELECT sum(kwh_consumed_ac) AS kwh, count(*) AS readings
            FROM meter_readings_history
            WHERE meter_id = feeds.meter_id AND ts >= %(start)s AND ts < %(end)s AND ts >= since AND ts < until
        ) AS part
    ) AS ac
    WHERE vehicle_status.vehicle_id = %(vehicle_id)s"""


def routes(database: Database, convention: MeterConvention | None) -> list[BaseRoute]:
    """The routes of this module."""
    return [Route("/v1/analytics/performance/{vehicleId}", partial(performance, database, convention))]


async def performance(database: Database, convention: MeterConvention | None, request: Request) -> Response:
    """Totals in kWh, their ratio and what it says, the mean battery temperature (°C), the readings counted."""
    vehicle_id = device_id(request, "vehicleId")
    period = window(request, datetime.now(UTC))
    row = await database.row(PERFORMANCE, performance_parameters(convention, vehicle_id, period))
    if row is None:
        raise UnknownDeviceError(f"No reading of vehicle {vehicle_id} was ever stored; check the id.")
    return answer(_performance(vehicle_id, period, row))


def performance_parameters(convention: MeterConvention | None, vehicle_id: str, period: Window) -> dict[str, object]:
    """What PERFORMANCE asks for."""
    return {
        "vehicle_id": vehicle_id,
        "meter_id": convention.meter_of(vehicle_id) if convention else None,
        "start": period.start,
        "end": period.end,
    }


def _performance(vehicle_id: str, period: Window, row: TupleRow) -> dict[str, object]:
    dc_kwh, temperature, vehicle_readings, ac_kwh, meter_readings = row
    efficiency = Efficiency.of(ac_kwh, dc_kwh)
    return {
        "vehicleId": vehicle_id,
        "period": {"start": timestamp(period.start), "end": timestamp(period.end)},
        "totalAcConsumed": number(round(ac_kwh, 4)),
        "totalDcDelivered": number(round(dc_kwh, 4)),
        "efficiencyRatio": efficiency.rounded,
        "efficiencyPercent": efficiency.percent,
        "avgBatteryTemp": None if temperature is None else number(round(temperature, 2)),
        "readingsCount": {"vehicle": vehicle_readings, "meter": meter_readings},
        "healthStatus": efficiency.health,
    }
