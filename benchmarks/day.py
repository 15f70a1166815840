"""A full day of the reference fleet, written straight into PostgreSQL: every device one reading a minute.

The rows lie as the ingest would have left them, in the order of their time, with the indexes kept up on the way; that
is slower than building the indexes afterwards, and the only way that their pages look like a real day's.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import LiteralString

import psycopg

HOURS = 24
DIGITS = 5
DEVICES_MAX = 10**DIGITS - 1

# %(start)s is a full hour. The devices' minutes are spread: device n reports n/devices of a minute after its start.
_METERS: LiteralString = """
    INSERT INTO meter_readings_history (meter_id, ts, kwh_consumed_ac, voltage)
    SELECT 'METER-' || lpad(device::text, %(digits)s, '0'),
        %(start)s + minute * interval '1 minute' + device * interval '1 minute' / (%(devices)s + 1),
        0.1 + (device * 7 + minute * 13) %% 100 / 1000.0,
        230 + (device + minute) %% 10
    FROM generate_series(0, 59) AS minute
    CROSS JOIN generate_series(1, %(devices)s) AS device
    ORDER BY minute, device"""
_VEHICLES: LiteralString = """
    INSERT INTO vehicle_readings_history (vehicle_id, ts, soc, kwh_delivered_dc, battery_temp)
    SELECT 'VEH-' || lpad(device::text, %(digits)s, '0'),
        %(start)s + minute * interval '1 minute' + device * interval '1 minute' / (%(devices)s + 1),
        minute,
        (0.1 + (device * 7 + minute * 13) %% 100 / 1000.0) * (0.6 + device %% 40 / 100.0),
        20 + (device + minute) %% 15
    FROM generate_series(0, 59) AS minute
    CROSS JOIN generate_series(1, %(devices)s) AS device
    ORDER BY minute, device"""
_STATUS: LiteralString = """
    INSERT INTO meter_status (meter_id, kwh_consumed_ac, voltage, last_reading, last_updated)
    SELECT meter_id, kwh_consumed_ac, voltage, ts, now() FROM meter_readings_history
    WHERE ts >= %(last)s AND ts < %(end)s;
    INSERT INTO vehicle_status (vehicle_id, soc, kwh_delivered_dc, battery_temp, last_reading, last_updated)
    SELECT vehicle_id, soc, kwh_delivered_dc, battery_temp, ts, now() FROM vehicle_readings_history
    WHERE ts >= %(last)s AND ts < %(end)s"""
_INVALID: LiteralString = """
    INSERT INTO hourly_invalidations (kind, hour)
    SELECT kind, %(start)s + hour * interval '1 hour'
    FROM unnest('{meter,vehicle}'::text[]) AS kind CROSS JOIN generate_series(0, %(hours)s - 1) AS hour"""


def load_day(url: str, devices: int, start: datetime) -> None:
    """`devices` meters and as many vehicles, HOURS full hours from `start`, not rolled yet; vacuumed and analysed."""
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda query: _load(url, query, devices, start), (_METERS, _VEHICLES)))
    end = start + timedelta(hours=HOURS)
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = psycopg.ClientCursor(connection)  # two statements with parameters
        cursor.execute(_STATUS, {"last": end - timedelta(minutes=1), "end": end})
        cursor.execute(_INVALID, {"start": start, "hours": HOURS})
        connection.execute("VACUUM (ANALYZE) meter_status, vehicle_status, hourly_invalidations")


def vacuum(url: str, tables: Sequence[LiteralString]) -> None:
    """What autovacuum would have done by now."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table in tables:
            connection.execute(psycopg.sql.SQL("VACUUM (ANALYZE, FREEZE) {}").format(psycopg.sql.Identifier(table)))


def _load(url: str, query: LiteralString, devices: int, start: datetime) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for hour in range(HOURS):
            connection.execute(query, {"start": start + timedelta(hours=hour), "devices": devices, "digits": DIGITS})
