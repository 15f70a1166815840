"""Counting: what the broker acknowledged to the devices, against what the tables hold.

The primary key would hide a second row from nobody but a broken index, so the rows are counted from the heap.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from tests.metrics import books, metric
from tests.processes import WattlineProcess
from tests.waiting import wait_until

Key = tuple[str, str, datetime]
"""(kind, device id, timestamp)"""
Numbers = tuple[float, ...]
Readings = dict[Key, Numbers]
Published = tuple[str, dict[str, Any]]
"""(kind, payload)"""


@dataclass(frozen=True)
class Tables:
    """Where a kind of reading is, and in which columns and JSON fields."""

    history: str
    status: str
    device: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]


TABLES = {
    "meter": Tables(
        "meter_readings_history",
        "meter_status",
        "meter_id",
        ("kwh_consumed_ac", "voltage"),
        ("meterId", "timestamp", "kwhConsumedAc", "voltage"),
    ),
    "vehicle": Tables(
        "vehicle_readings_history",
        "vehicle_status",
        "vehicle_id",
        ("soc", "kwh_delivered_dc", "battery_temp"),
        ("vehicleId", "timestamp", "soc", "kwhDeliveredDc", "batteryTemp"),
    ),
}


def as_stored(published: Iterable[Published]) -> Readings:
    """What (kind, payload) pairs are in the tables; of a reading that was published twice, the first."""
    readings: Readings = {}
    for kind, payload in published:
        device, timestamp, *numbers = (payload[field] for field in TABLES[kind].fields)
        readings.setdefault((kind, device, datetime.fromisoformat(timestamp)), tuple(map(float, numbers)))
    return readings


def rows_in_history(url: str) -> int:
    """How many readings are stored."""
    with psycopg.connect(url) as connection:
        return sum(_one(connection, f"SELECT count(*) FROM {tables.history}") for tables in TABLES.values())


def assert_stored_once(
    url: str, published: Iterable[Published], *, perhaps: Iterable[Published] = (), timeout: float = 0
) -> None:
    """The tables hold exactly these readings, each once and unchanged, and the newest of each device as its status.

    `perhaps` some of those are there as well: readings with QoS 0, or deleted under the ingestor. Up to `timeout`
    seconds are given for readings that are still on their way.
    """
    expected = as_stored(published)
    assert expected
    allowed = as_stored(perhaps) | expected
    with suppress(AssertionError):  # said better below
        wait_until(lambda: rows_in_history(url) >= len(expected), timeout)
    with psycopg.connect(url) as connection:
        for setting in ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"):
            connection.execute(f"SET {setting} = off")
        twice = {kind: _twice(connection, tables) for kind, tables in TABLES.items()}
        stored = {key: numbers for kind in TABLES for key, numbers in _history(connection, kind)}
        statuses = {key: numbers for kind in TABLES for key, numbers in _statuses(connection, kind)}
    assert not any(twice.values()), f"stored twice: { {kind: rows[:3] for kind, rows in twice.items()} }"
    missing, unknown = expected.keys() - stored.keys(), stored.keys() - allowed.keys()
    assert not missing, f"{len(missing)} of {len(expected)} readings are missing, such as {min(missing)}"
    assert not unknown, f"{len(unknown)} readings were never published, such as {min(unknown)}"
    changed = {key: (allowed[key], stored[key]) for key in stored if allowed[key] != stored[key]}
    assert not changed, f"{len(changed)} readings have other values: {dict(list(changed.items())[:3])}"
    assert statuses == _newest(stored)


def assert_books_balance(process: WattlineProcess) -> float:
    """Received = committed + duplicate + rejected, once nothing is pending; the result is received."""
    wait_until(lambda: metric(process, "wattline_readings_pending") == 0, what="nothing is pending")
    received, settled = books(process)
    assert received == settled
    return received


def _one(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def _twice(connection: psycopg.Connection[Any], tables: Tables) -> list[Any]:
    query = f"SELECT {tables.device}, ts, count(*) FROM {tables.history} GROUP BY 1, 2 HAVING count(*) > 1"
    return connection.execute(query.encode()).fetchall()


def _history(connection: psycopg.Connection[Any], kind: str) -> Iterable[tuple[Key, Numbers]]:
    tables = TABLES[kind]
    query = f"SELECT {tables.device}, ts, {', '.join(tables.columns)} FROM {tables.history}"
    for device, ts, *numbers in connection.execute(query.encode()):
        yield (kind, device, ts), tuple(numbers)


def _statuses(connection: psycopg.Connection[Any], kind: str) -> Iterable[tuple[Key, Numbers]]:
    tables = TABLES[kind]
    query = f"SELECT {tables.device}, last_reading, {', '.join(tables.columns)} FROM {tables.status}"
    for device, ts, *numbers in connection.execute(query.encode()):
        yield (kind, device, ts), tuple(numbers)


def _newest(readings: Readings) -> Readings:
    newest = {key[:2]: key for key in sorted(readings)}
    return {key: readings[key] for key in newest.values()}
