"""A running API in front of a migrated database of its own, and rows as the ingestor would have stored them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from tests.backends import Database
from tests.databases import a_database, bring_up_to_date, migrated_template
from tests.processes import WattlineProcess


@dataclass(frozen=True)
class MeterRow:
    """A row of meter_readings_history."""

    meter_id: str
    ts: datetime
    kwh_consumed_ac: float
    voltage: float = 230.0


@dataclass(frozen=True)
class VehicleRow:
    """A row of vehicle_readings_history."""

    vehicle_id: str
    ts: datetime
    kwh_delivered_dc: float
    soc: float = 50.0
    battery_temp: float = 25.0


def prepare(url: str) -> None:
    """The schema and the rights to it, and one partition for readings of any day."""
    asyncio.run(bring_up_to_date(url))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE any_meter_day PARTITION OF meter_readings_history DEFAULT")
        connection.execute("CREATE TABLE any_vehicle_day PARTITION OF vehicle_readings_history DEFAULT")


def store(url: str, meters: Iterable[MeterRow] = (), vehicles: Iterable[VehicleRow] = ()) -> None:
    """Store readings, in the order of their time, with the newest of each device as its status."""
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO meter_readings_history VALUES (%(meter_id)s, %(ts)s, %(kwh_consumed_ac)s, %(voltage)s)",
            [vars(row) for row in meters],
        )
        cursor.executemany(
            "INSERT INTO vehicle_readings_history"
            " VALUES (%(vehicle_id)s, %(ts)s, %(soc)s, %(kwh_delivered_dc)s, %(battery_temp)s)",
            [vars(row) for row in vehicles],
        )
        cursor.executemany(
            "INSERT INTO meter_status VALUES (%(meter_id)s, %(kwh_consumed_ac)s, %(voltage)s, %(ts)s, %(ts)s)"
            " ON CONFLICT (meter_id) DO UPDATE SET kwh_consumed_ac = excluded.kwh_consumed_ac,"
            " voltage = excluded.voltage, last_reading = excluded.last_reading, last_updated = excluded.last_updated",
            [vars(row) for row in meters],
        )
        cursor.executemany(
            "INSERT INTO vehicle_status"
            " VALUES (%(vehicle_id)s, %(soc)s, %(kwh_delivered_dc)s, %(battery_temp)s, %(ts)s, %(ts)s)"
            " ON CONFLICT (vehicle_id) DO UPDATE SET soc = excluded.soc,"
            " kwh_delivered_dc = excluded.kwh_delivered_dc, battery_temp = excluded.battery_temp,"
            " last_reading = excluded.last_reading, last_updated = excluded.last_updated",
            [vars(row) for row in vehicles],
        )


@contextmanager
def prepared_database(server: Database) -> Iterator[str]:
    """A migrated database of its own on a running server, prepared."""
    with a_database(server, migrated_template(server)) as url:
        prepare(url)
        yield url


@contextmanager
def running_api(folder: Path, url: str, **settings: str) -> Iterator[WattlineProcess]:
    """`wattline api`, ready to serve from the database at `url`, and to write as that of `wattline up` does."""
    environment: dict[str, Any] = {"DATABASE_URL": url, "API_WRITE_LOOPBACK": "1"} | settings
    process = WattlineProcess("api", folder=folder, **environment)
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.end()
