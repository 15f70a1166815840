"""What every vehicle of the fleet did in a period: one statement over hourly sums and raw readings.

It takes the sums of an hour only where no invalidation says that they lack a reading, and raw rows everywhere else: the
running hour, invalidated hours and devices, the edges of links. All of it sees one snapshot, so the figures are exact
at every moment, whatever is being flushed or rolled. Never split it into several statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import LiteralString

from psycopg.rows import TupleRow

from analytics_api.analytics.pairs import MeterConvention
from analytics_api.database.questions import Database
from telemetry.kinds import METER, VEHICLE

# What each device of a kind adds up to over the period. One device's hour of raw rows is asked for by its primary key,
# the hour of all devices by ts alone, which the BRIN index answers: count(ingested_at), which is never null, keeps the
# planner from walking through every device of the primary key instead (twice the time). The hour before the running one
# has a branch of its own: it is the one that is not summed yet in the first seconds of an hour, and with constants for
# its bounds it is read in parallel. The bounds of the period stand beside those of each hour: the planner locks the
# partitions in them, and otherwise every one that there is.
TOTALS: LiteralString = """
        SELECT {id}, {sums_of_hours}, sum(readings)::bigint AS readings
        FROM (
            SELECT {id}, {sums_of_hours}, sum(readings) AS readings
            FROM {hourly}
            WHERE hour >= %(start)s AND hour < %(running)s
                AND hour <> ALL (ARRAY(SELECT DISTINCT hour FROM invalid WHERE kind = '{kind}'))
            GROUP BY {id}
            UNION ALL
            SELECT {id}, {hours}, readings
            FROM {hourly}
            WHERE hour = ANY (ARRAY(SELECT DISTINCT hour FROM invalid_devices WHERE kind = '{kind}'))
                AND ('{kind}', hour, {id}) NOT IN (SELECT kind, hour, device_id FROM invalid_devices)
            UNION ALL
            SELECT {id}, {sums}, count(ingested_at)
            FROM {history}
            WHERE ts >= %(running)s AND ts < %(end)s
            GROUP BY {id}
            UNION ALL
            SELECT {id}, {sums}, count(ingested_at)
            FROM {history}
            WHERE ts >= %(previous)s AND ts < %(running)s
                AND EXISTS (SELECT FROM invalid_hours WHERE kind = '{kind}' AND hour = %(previous)s)
            GROUP BY {id}
            UNION ALL
            SELECT {id}, {hours}, readings
            FROM invalid_hours
            CROSS JOIN LATERAL (
                SELECT {id}, {named_sums}, count(ingested_at) AS readings
                FROM {history}
                WHERE ts >= %(start)s AND ts < %(running)s
                    AND ts >= invalid_hours.hour AND ts < invalid_hours.hour + interval '1 hour'
                GROUP BY {id}
            ) AS raw
            WHERE kind = '{kind}' AND hour < %(previous)s
            UNION ALL
            SELECT {id}, {hours}, readings
            FROM invalid_devices
            CROSS JOIN LATERAL (
                SELECT {id}, {named_sums}, count(*) AS readings
                FROM {history}
                WHERE {id} = device_id AND ts >= %(start)s AND ts < %(running)s
                    AND ts >= invalid_devices.hour AND ts < invalid_devices.hour + interval '1 hour'
                GROUP BY {id}
            ) AS raw
            WHERE kind = '{kind}'
        ) AS hours
        GROUP BY {id}"""

# What the device of a kind added up to in each piece of a period: full hours with right sums are read from them, the
# rest through the index of that device.
PIECES: LiteralString = """
        SELECT vehicle_id, {kwh} AS kwh, sum({hourly}.readings)::bigint AS readings
        FROM pieces
        JOIN {hourly} USING (hour, {id})
        WHERE {kind}_is_summed AND hour >= %(start)s AND hour < %(running)s
        GROUP BY vehicle_id
        UNION ALL
        SELECT vehicle_id, sum(raw.kwh), sum(raw.readings)::bigint
        FROM pieces
        CROSS JOIN LATERAL (
            SELECT {kwh} AS kwh, count(*) AS readings
            FROM {history}
            WHERE {id} = pieces.{id} AND ts >= %(start)s AND ts < %(end)s AND ts >= lower AND ts < upper
            GROUP BY {id}
        ) AS raw
        WHERE NOT {kind}_is_summed
        GROUP BY vehicle_id"""

IS_SUMMED: LiteralString = """
            whole_hour AND ('{kind}', hour) NOT IN (SELECT kind, hour FROM invalid_hours)
                AND ('{kind}', hour, {id}) NOT IN (SELECT kind, hour, device_id FROM invalid_devices)
                AS {kind}_is_summed"""

# Vehicles and the meters that feed them: this statement is about pairs. feeds: when which meter is known to have fed a
# vehicle, as in `performance`. Where one did for the whole period, the totals of both answer (whole); of every other
# one the part of each hour (pieces).
PAIRS: LiteralString = """
    WITH invalid AS MATERIALIZED (
        SELECT DISTINCT kind, hour, device_id
        FROM hourly_invalidations
        WHERE hour >= %(start)s AND hour < %(running)s
    ), invalid_hours AS MATERIALIZED (
        SELECT kind, hour FROM invalid WHERE device_id IS NULL
    ), invalid_devices AS MATERIALIZED (
        SELECT kind, hour, device_id
        FROM invalid
        WHERE device_id IS NOT NULL AND (kind, hour) NOT IN (SELECT kind, hour FROM invalid_hours)
    ), passed AS MATERIALIZED (
        SELECT extract(epoch FROM least(%(end)s, now()) - %(start)s)::float8 AS seconds
    ), vehicles AS MATERIALIZED (
        SELECT vehicle_id, usual_interval_seconds FROM vehicle_status
    ), meters AS MATERIALIZED (
        SELECT meter_id, usual_interval_seconds FROM meter_status
    ), vehicle_totals AS MATERIALIZED ({vehicle_totals}
    ), meter_totals AS MATERIALIZED ({meter_totals}
    ), first_links AS MATERIALIZED (
        SELECT vehicle_id, min(valid_from) AS since FROM vehicle_meter_links GROUP BY vehicle_id
    ), taken AS MATERIALIZED (
        SELECT meter_id, range_agg(tstzrange(valid_from, valid_to)) AS at
        FROM vehicle_meter_links
        WHERE valid_from < %(end)s AND (valid_to IS NULL OR valid_to > %(start)s)
        GROUP BY meter_id
    ), by_name AS MATERIALIZED (
        SELECT vehicle_id,
            %(meter_prefix)s::text || substr(vehicle_id, length(%(vehicle_prefix)s::text) + 1) AS meter_id
        FROM vehicles
        WHERE starts_with(vehicle_id, %(vehicle_prefix)s::text)
    ), named AS MATERIALIZED (
        SELECT vehicle_id, meter_id, greatest(valid_from, %(start)s) AS since, least(valid_to, %(end)s) AS until
        FROM vehicle_meter_links
        WHERE valid_from < %(end)s AND (valid_to IS NULL OR valid_to > %(start)s)
        UNION ALL
        SELECT vehicle_id, meter_id, %(start)s, %(end)s
        FROM by_name
        LEFT JOIN first_links USING (vehicle_id)
        LEFT JOIN taken USING (meter_id)
        WHERE first_links.vehicle_id IS NULL AND taken.meter_id IS NULL
        UNION ALL
        SELECT vehicle_id, meter_id, lower(free), upper(free)
        FROM (
            SELECT * FROM by_name
            WHERE vehicle_id IN (SELECT vehicle_id FROM first_links) OR meter_id IN (SELECT meter_id FROM taken)
        ) AS touched
        LEFT JOIN first_links USING (vehicle_id)
        LEFT JOIN taken USING (meter_id)
        CROSS JOIN LATERAL unnest(
            tstzmultirange(tstzrange(%(start)s, greatest(%(start)s, least(%(end)s, first_links.since))))
                - coalesce(taken.at, '{{}}')
        ) AS free
    ), feeds AS MATERIALIZED (
        SELECT vehicle_id, meter_id, since, until, since = %(start)s AND until = %(end)s AS is_whole,
            usual_interval_seconds, meter_totals.kwh_consumed_ac AS ac_kwh, meter_totals.readings AS meter_readings
        FROM named
        LEFT JOIN meters USING (meter_id)
        LEFT JOIN meter_totals USING (meter_id)
        WHERE meters.meter_id IS NOT NULL OR meter_totals.readings > 0
            OR meter_id IN (
                SELECT device_id FROM annulled_readings WHERE kind = 'meter' AND ts >= %(start)s AND ts < %(end)s
            )
    ), hours AS MATERIALIZED (
        SELECT vehicle_id, meter_id, hour, lower, upper,
            hour < %(running)s AND upper - lower = interval '1 hour' AS whole_hour
        FROM feeds
        CROSS JOIN LATERAL generate_series(
            date_trunc('hour', since, 'UTC'), until - interval '1 microsecond', interval '1 hour'
        ) AS hour
        CROSS JOIN LATERAL (
            SELECT greatest(since, hour) AS lower, least(until, hour + interval '1 hour') AS upper
        ) AS part
        WHERE NOT is_whole
    ), pieces AS MATERIALIZED (
        SELECT vehicle_id, meter_id, hour, lower, upper, {meter_is_summed}, {vehicle_is_summed}
        FROM hours
    ), meter_pieces AS MATERIALIZED ({meter_pieces}
    ), vehicle_pieces AS MATERIALIZED ({vehicle_pieces}
    ), fed AS (
        SELECT vehicle_id, sum(ac_kwh) AS ac_kwh, sum(meter_readings)::bigint AS meter_readings,
            sum(dc_kwh) AS dc_kwh, sum(vehicle_readings)::bigint AS vehicle_readings,
            CASE WHEN NOT bool_or(is_unknown) THEN sum(meter_expected) END AS meter_expected
        FROM (
            SELECT feeds.vehicle_id, CASE WHEN is_whole THEN ac_kwh END AS ac_kwh,
                CASE WHEN is_whole THEN meter_readings END AS meter_readings,
                vehicle_totals.kwh_delivered_dc AS dc_kwh, vehicle_totals.readings AS vehicle_readings,
                CASE WHEN is_whole THEN greatest((SELECT seconds FROM passed), 0)
                    ELSE greatest(extract(epoch FROM least(until, now()) - since)::float8, 0)
                END / usual_interval_seconds AS meter_expected,
                usual_interval_seconds IS NULL AS is_unknown
            FROM feeds
            LEFT JOIN vehicle_totals ON is_whole AND vehicle_totals.vehicle_id = feeds.vehicle_id
            UNION ALL
            SELECT vehicle_id, kwh, readings, 0, 0, 0, false FROM meter_pieces
            UNION ALL
            SELECT vehicle_id, 0, 0, kwh, readings, 0, false FROM vehicle_pieces
        ) AS parts
        GROUP BY vehicle_id
    ), annulled AS (
        SELECT device_id AS vehicle_id FROM annulled_readings
        WHERE kind = 'vehicle' AND ts >= %(start)s AND ts < %(end)s
        UNION
        SELECT vehicle_id
        FROM feeds
        JOIN annulled_readings ON kind = 'meter' AND device_id = meter_id AND ts >= since AND ts < until
    )
    SELECT vehicle_id, coalesce(fed.ac_kwh, 0), coalesce(vehicle_totals.kwh_delivered_dc, 0),
        vehicle_totals.battery_temp_sum / nullif(vehicle_totals.readings, 0),
        coalesce(vehicle_totals.readings, 0), coalesce(fed.meter_readings, 0), coalesce(fed.dc_kwh, 0),
        coalesce(vehicle_totals.readings, 0) > coalesce(fed.vehicle_readings, 0)
            AND (vehicle_id IN (SELECT vehicle_id FROM first_links) OR vehicle_id IN (
                SELECT by_name.vehicle_id FROM by_name WHERE meter_id IN (SELECT meter_id FROM vehicle_meter_links)
            )),
        (SELECT seconds FROM passed) / usual_interval_seconds,
        fed.meter_expected, vehicle_id IN (SELECT vehicle_id FROM annulled)
    FROM vehicles
    LEFT JOIN vehicle_totals USING (vehicle_id)
    LEFT JOIN fed USING (vehicle_id)"""

FLEET = PAIRS.format(
    **{
        f"{kind.name}_{part}": kind.sql(template).decode()
        for kind in (METER, VEHICLE)
        for part, template in {"totals": TOTALS, "pieces": PIECES, "is_summed": IS_SUMMED}.items()
    }
).encode()

# A month of 10,000 vehicles takes some 4 s: a client is told to come back, and then finds it computed.
FLEET_SECONDS_MAX = 20.0


@dataclass(frozen=True)
class FleetPeriod:
    """`hours` full hours and the running one until `end`: [start, end)."""

    hours: int
    end: datetime

    @property
    def running(self) -> datetime:
        """When the running hour began."""
        return self.end.astimezone(UTC).replace(minute=0, second=0, microsecond=0)

    @property
    def previous(self) -> datetime:
        """When the hour before it began."""
        return self.running - timedelta(hours=1)

    @property
    def start(self) -> datetime:
        """The first moment counted. Raises OverflowError before the first year."""
        return self.running - timedelta(hours=self.hours)


async def fleet_figures(
    database: Database, convention: MeterConvention | None, period: FleetPeriod
) -> Sequence[TupleRow]:
    """The rows of FLEET, one for every vehicle that has a status, in no order. Raises UnavailableError."""
    return await database.rows_in_time(FLEET, fleet_parameters(convention, period), FLEET_SECONDS_MAX)


def fleet_parameters(convention: MeterConvention | None, period: FleetPeriod) -> dict[str, object]:
    return {
        "start": period.start,
        "previous": period.previous,
        "running": period.running,
        "end": period.end,
        # starts_with(…, NULL) is not true: without a convention only links feed a vehicle.
        "vehicle_prefix": convention.vehicle_prefix if convention else None,
        "meter_prefix": convention.meter_prefix if convention else None,
    }
