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

from analytics_api.analytics.efficiency import Efficiency
from analytics_api.analytics.meters import MeterConvention
from analytics_api.database.questions import Database
from telemetry.kinds import METER, VEHICLE

# What each device of a kind adds up to over the period. One device's hour of raw rows is asked for by its primary key,
# the hour of all devices by ts alone, which the BRIN index answers: count(ingested_at), which is never null, keeps the
# planner from walking through every device of the primary key instead (twice the time). The hour before the running one
# has a branch of its own: it is the one that is not summed yet in the first seconds of an hour, and with constants for
# its bounds it is read in parallel.
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
                WHERE ts >= invalid_hours.hour AND ts < invalid_hours.hour + interval '1 hour'
                GROUP BY {id}
            ) AS raw
            WHERE kind = '{kind}' AND hour < %(previous)s
            UNION ALL
            SELECT device_id, {hours}, readings
            FROM invalid_devices
            CROSS JOIN LATERAL (
                SELECT {named_sums}, count(*) AS readings
                FROM {history}
                WHERE {id} = device_id
                    AND ts >= invalid_devices.hour AND ts < invalid_devices.hour + interval '1 hour'
            ) AS raw
            WHERE kind = '{kind}'
        ) AS hours
        GROUP BY {id}"""

# Vehicles and the meters that feed them: this statement is about pairs. {vehicles} and {meters} are TOTALS of each.
# whole: what fed a vehicle during the whole period, which the totals of its meter answer. pieces: of every other link
# the part of each hour; a full hour with right sums is read from them, the rest through the index of that meter.
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
    ), vehicle_totals AS ({vehicles}
    ), meter_totals AS ({meters}
    ), links AS MATERIALIZED (
        SELECT vehicle_id, meter_id, greatest(valid_from, %(start)s) AS since, least(valid_to, %(end)s) AS until
        FROM vehicle_meter_links
        WHERE valid_from < %(end)s AND (valid_to IS NULL OR valid_to > %(start)s)
    ), whole AS (
        SELECT vehicle_id, meter_id FROM links WHERE since = %(start)s AND until = %(end)s
        UNION ALL
        SELECT vehicle_id, %(meter_prefix)s::text || substr(vehicle_id, length(%(vehicle_prefix)s::text) + 1)
        FROM vehicle_status
        WHERE starts_with(vehicle_id, %(vehicle_prefix)s::text)
            AND vehicle_id NOT IN (SELECT vehicle_id FROM vehicle_meter_links)
    ), pieces AS MATERIALIZED (
        SELECT vehicle_id, meter_id, hour, lower, upper,
            hour < %(running)s AND upper - lower = interval '1 hour'
                AND ('meter', hour) NOT IN (SELECT kind, hour FROM invalid_hours)
                AND ('meter', hour, meter_id) NOT IN (SELECT kind, hour, device_id FROM invalid_devices) AS summed
        FROM links
        CROSS JOIN LATERAL generate_series(
            date_trunc('hour', since, 'UTC'), until - interval '1 microsecond', interval '1 hour'
        ) AS hour
        CROSS JOIN LATERAL (
            SELECT greatest(since, hour) AS lower, least(until, hour + interval '1 hour') AS upper
        ) AS part
        WHERE since > %(start)s OR until < %(end)s
    ), fed AS (
        SELECT vehicle_id, sum(kwh) AS kwh, sum(readings)::bigint AS readings
        FROM (
            SELECT vehicle_id, kwh_consumed_ac AS kwh, readings FROM whole JOIN meter_totals USING (meter_id)
            UNION ALL
            SELECT vehicle_id, kwh_consumed_ac, meter_hourly.readings
            FROM pieces
            JOIN meter_hourly USING (hour, meter_id)
            WHERE summed
            UNION ALL
            SELECT vehicle_id, raw.kwh, raw.readings
            FROM pieces
            CROSS JOIN LATERAL (
                SELECT sum(kwh_consumed_ac) AS kwh, count(*) AS readings
                FROM meter_readings_history
                WHERE meter_id = pieces.meter_id AND ts >= lower AND ts < upper
            ) AS raw
            WHERE NOT summed
        ) AS parts
        GROUP BY vehicle_id
    )
    SELECT vehicle_id, coalesce(fed.kwh, 0), coalesce(vehicle_totals.kwh_delivered_dc, 0),
        vehicle_totals.battery_temp_sum / nullif(vehicle_totals.readings, 0),
        coalesce(vehicle_totals.readings, 0), coalesce(fed.readings, 0)
    FROM vehicle_status
    LEFT JOIN vehicle_totals USING (vehicle_id)
    LEFT JOIN fed USING (vehicle_id)"""

FLEET = PAIRS.format(vehicles=VEHICLE.sql(TOTALS).decode(), meters=METER.sql(TOTALS).decode()).encode()

# A month of 10,000 vehicles takes some 4 s; whoever asks is told to come back, and finds it computed.
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


@dataclass(frozen=True, slots=True)
class VehicleFigures:
    """One vehicle's sums over the period, not rounded: kWh, °C, readings."""

    vehicle_id: str
    ac_kwh: float
    dc_kwh: float
    temperature: float | None
    vehicle_readings: int
    meter_readings: int
    efficiency: Efficiency

    @classmethod
    def of(cls, row: TupleRow) -> VehicleFigures:
        """A row of FLEET, judged."""
        vehicle_id, ac_kwh, dc_kwh, temperature, vehicle_readings, meter_readings = row
        efficiency = Efficiency.of(ac_kwh, dc_kwh)
        return cls(vehicle_id, ac_kwh, dc_kwh, temperature, vehicle_readings, meter_readings, efficiency)


async def fleet_figures(
    database: Database, convention: MeterConvention | None, period: FleetPeriod
) -> Sequence[TupleRow]:
    """The rows of FLEET, one for every vehicle that has a status, in no order. Raises UnavailableError."""
    return await database.rows_in_time(FLEET, fleet_parameters(convention, period), FLEET_SECONDS_MAX)


def fleet_parameters(convention: MeterConvention | None, period: FleetPeriod) -> dict[str, object]:
    """What FLEET asks for."""
    return {
        "start": period.start,
        "previous": period.previous,
        "running": period.running,
        "end": period.end,
        # starts_with(…, NULL) is not true: without a convention only links feed a vehicle.
        "vehicle_prefix": convention.vehicle_prefix if convention else None,
        "meter_prefix": convention.meter_prefix if convention else None,
    }
