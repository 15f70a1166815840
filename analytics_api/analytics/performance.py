"""`GET /v1/analytics/performance/{vehicleId}`: energy in, energy out, and health of one vehicle over a window.

One statement, so the numbers of an answer belong to one moment, its quality too. It reads both histories from their
covering indexes.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.analytics.figures import VehicleFigures, period_json
from analytics_api.analytics.pairs import MeterConvention, PairRules
from analytics_api.database.questions import Database
from analytics_api.http.answers import answer
from analytics_api.http.parameters import Window, device_id, window
from analytics_api.readings.known import unknown
from telemetry.kinds import VEHICLE

# No row for an unknown vehicle; one that is known (`readings/known.py`) is answered, whatever it did in the window.
# `feeds`: when which meter is known to have fed it. By its name until its first link, except for the time in which that
# meter is linked to another vehicle; then by links alone. A meter that was never seen is not known to feed anything: it
# has no status nor, where it was forgotten, readings in the window, not even annulled ones. The window stands beside
# each part, so that no partition outside it is read.
PERFORMANCE = """
    WITH first_link AS MATERIALIZED (
        SELECT min(valid_from) AS since FROM vehicle_meter_links WHERE vehicle_id = %(vehicle_id)s
    ), named AS MATERIALIZED (
        SELECT meter_id, greatest(valid_from, %(start)s) AS since, least(valid_to, %(end)s) AS until
        FROM vehicle_meter_links
        WHERE vehicle_id = %(vehicle_id)s
            AND valid_from < %(end)s AND (valid_to IS NULL OR valid_to > %(start)s)
        UNION ALL
        SELECT %(meter_id)s, lower(free), upper(free)
        FROM first_link
        CROSS JOIN LATERAL unnest(
            tstzmultirange(tstzrange(%(start)s, greatest(%(start)s, least(%(end)s, first_link.since)))) - coalesce(
                (SELECT range_agg(tstzrange(valid_from, valid_to)) FROM vehicle_meter_links
                 WHERE meter_id = %(meter_id)s),
                '{}')
        ) AS free
        WHERE %(meter_id)s IS NOT NULL
    ), seen AS MATERIALIZED (
        SELECT meter_id, usual_interval_seconds FROM meter_status
        WHERE meter_id = ANY (ARRAY(SELECT meter_id FROM named))
    ), stored AS MATERIALIZED (
        SELECT DISTINCT meter_id FROM meter_readings_history
        WHERE meter_id = ANY (ARRAY(SELECT meter_id FROM named EXCEPT SELECT meter_id FROM seen))
            AND ts >= %(start)s AND ts < %(end)s
    ), feeds AS MATERIALIZED (
        SELECT meter_id, since, until, usual_interval_seconds
        FROM named
        LEFT JOIN seen USING (meter_id)
        WHERE seen.meter_id IS NOT NULL
            OR meter_id IN (SELECT meter_id FROM stored)
            OR EXISTS (
                SELECT 1 FROM annulled_readings
                WHERE kind = 'meter' AND device_id = named.meter_id AND ts >= %(start)s AND ts < %(end)s
            )
    ), fed AS MATERIALIZED (
        SELECT coalesce(range_agg(tstzrange(since, until)), '{}') AS at FROM feeds
    ), vehicle AS MATERIALIZED (
        SELECT usual_interval_seconds FROM vehicle_status WHERE vehicle_id = %(vehicle_id)s
    ), dc AS MATERIALIZED (
        SELECT coalesce(sum(kwh_delivered_dc), 0) AS kwh, avg(battery_temp) AS temperature, count(*) AS readings,
            coalesce(sum(kwh_delivered_dc) FILTER (WHERE ts <@ fed.at), 0) AS paired_kwh,
            count(*) FILTER (WHERE ts <@ fed.at) AS paired_readings
        FROM fed
        CROSS JOIN vehicle_readings_history
        WHERE vehicle_id = %(vehicle_id)s AND ts >= %(start)s AND ts < %(end)s
    ), ac AS MATERIALIZED (
        SELECT coalesce(sum(part.kwh), 0) AS kwh, coalesce(sum(part.readings), 0)::bigint AS readings
        FROM feeds
        CROSS JOIN LATERAL (
            SELECT sum(kwh_consumed_ac) AS kwh, count(*) AS readings
            FROM meter_readings_history
            WHERE meter_id = feeds.meter_id AND ts >= %(start)s AND ts < %(end)s AND ts >= since AND ts < until
            GROUP BY meter_id
        ) AS part
    ), expected AS MATERIALIZED (
        SELECT CASE WHEN bool_and(usual_interval_seconds IS NOT NULL) THEN
            sum(greatest(extract(epoch FROM least(until, now()) - since)::float8, 0) / usual_interval_seconds)
        END AS meter_readings
        FROM feeds
    )
    SELECT %(vehicle_id)s::text, ac.kwh, dc.kwh, dc.temperature, dc.readings, ac.readings, dc.paired_kwh,
        dc.paired_readings < dc.readings
            AND EXISTS (
                SELECT 1 FROM vehicle_meter_links WHERE vehicle_id = %(vehicle_id)s OR meter_id = %(meter_id)s
            ),
        extract(epoch FROM least(%(end)s, now()) - %(start)s)::float8
            / (SELECT usual_interval_seconds FROM vehicle),
        expected.meter_readings,
        EXISTS (
            SELECT 1 FROM annulled_readings
            WHERE kind = 'vehicle' AND device_id = %(vehicle_id)s AND ts >= %(start)s AND ts < %(end)s
        ) OR EXISTS (
            SELECT 1 FROM feeds
            JOIN annulled_readings ON kind = 'meter' AND device_id = meter_id AND ts >= since AND ts < until
        )
    FROM ac CROSS JOIN dc CROSS JOIN expected
    WHERE EXISTS (SELECT 1 FROM vehicle)
        OR EXISTS (SELECT 1 FROM forgotten_devices WHERE kind = 'vehicle' AND device_id = %(vehicle_id)s)
        OR EXISTS (SELECT 1 FROM annulments WHERE kind = 'vehicle' AND device_id = %(vehicle_id)s)"""


def routes(database: Database, pairs: PairRules) -> list[BaseRoute]:
    return [Route("/v1/analytics/performance/{vehicleId}", partial(performance, database, pairs))]


async def performance(database: Database, pairs: PairRules, request: Request) -> Response:
    """Totals in kWh, the ratio while a meter fed the vehicle and what it says, the mean battery temperature (°C), the
    readings counted, and how far all of it can be relied on.
    """
    vehicle_id = device_id(request, "vehicleId")
    period = window(request, datetime.now(UTC))
    row = await database.row(PERFORMANCE, performance_parameters(pairs.convention, vehicle_id, period), of_window=True)
    if row is None:
        raise unknown(VEHICLE, vehicle_id)
    figures = VehicleFigures.of(row, pairs.tolerance).as_json()
    hours = (period.end - period.start) // timedelta(hours=1)
    covers = f"{hours} hour{'s' if hours > 1 else ''} to the second"
    return answer({"vehicleId": vehicle_id, "period": period_json(period.start, period.end, covers), **figures})


def performance_parameters(convention: MeterConvention | None, vehicle_id: str, period: Window) -> dict[str, object]:
    return {
        "vehicle_id": vehicle_id,
        "meter_id": convention.meter_of(vehicle_id) if convention else None,
        "start": period.start,
        "end": period.end,
    }
