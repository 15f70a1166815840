"""How many tables are locked does not follow how many days are kept: over a long history a few statements that lock
every partition would exhaust the lock table of the server, and no flush could go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import AsyncConnection

from ingestor import wire
from ingestor.batch import Batch, Row
from ingestor.hourly import roll
from ingestor.isolation import store_rows
from ingestor.schema.migrate import migrate
from ingestor.schema.partitions import ensure_partitions
from ingestor.usual_interval import learn
from ledger.annul import annul, kind_of
from ledger.restore import restore
from ledger.stretch import Stretch
from postgres.connecting import connect
from telemetry.kinds import METER
from telemetry.readings import EPOCH, MICROSECOND

Connection = AsyncConnection[tuple[object, ...]]

DAYS = 60
# Each partition is three locks: itself and its two indexes. Twelve days of them are looked into at most.
LOCKS_MAX = 60
# After some five times a statement may be prepared, and after ten get a plan for any moment.
TURNS = 12
NOW = datetime.now(UTC).replace(microsecond=0)
ROWS: list[Row] = [("M", (NOW - timedelta(minutes=each) - EPOCH) // MICROSECOND, 1.0, 230.0) for each in range(30)]


async def store(connection: Connection) -> None:
    """Half of them are repeated, the others in conflict."""
    rows = [(*row[:2], 1.0 + number % 2, 230.0) for number, row in enumerate(ROWS)]
    done = await store_rows(
        connection, METER, rows, batch=Batch(may_be_stored=True), unplaced={}, progress=lambda: None
    )
    assert (done.stored, done.repeated, len(done.refused)) == (0, 15, 15)


async def annul_and_restore(connection: Connection) -> None:
    stretch = Stretch(METER, "M", NOW - timedelta(minutes=5), NOW + timedelta(minutes=1))
    annulled = await annul(connection, stretch, reason="wrong", who="a test")
    assert (annulled.readings, annulled.status_changed) == (6, True)
    assert (await restore(connection, annulled.annulment_id, who="a test")).status_changed


async def look_for_the_kind(connection: Connection) -> None:
    assert await kind_of(connection, "M", NOW - timedelta(days=DAYS), NOW + timedelta(days=1)) is METER


async def learn_intervals(connection: Connection) -> None:
    await connection.execute("UPDATE meter_status SET usual_interval_seconds = NULL")
    assert await learn(connection, METER, lately=timedelta(days=1)) == 1


async def sum_hours(connection: Connection) -> None:
    for device in "'M'", "NULL":
        query = (
            f"INSERT INTO hourly_invalidations VALUES ('meter', date_trunc('hour', now()) - '1 h'::interval, {device})"
        )
        await connection.execute(query.encode())
        rolled = await roll(connection)
        assert rolled is not None
        assert rolled.hours


@pytest.mark.parametrize("work", [store, annul_and_restore, look_for_the_kind, learn_intervals, sum_hours])
def test_no_work_locks_the_partitions_of_all_days(
    database_url: str, work: Callable[[Connection], Awaitable[None]]
) -> None:
    async def story() -> int:
        async with await connect(database_url, autocommit=True) as connection:
            await migrate(connection)
            await ensure_partitions(connection, [(NOW - timedelta(days=day)).date() for day in range(DAYS)])
            wire.register(connection)
            await store_rows(connection, METER, ROWS, batch=Batch(), unplaced={}, progress=lambda: None)
            async with connection.transaction():
                for _ in range(TURNS):
                    await work(connection)
                cursor = await connection.execute(
                    "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN ("
                    "SELECT oid FROM pg_class WHERE relname LIKE 'meter_readings_history_p%')"
                )
                ((locked,),) = await cursor.fetchall()
                return int(str(locked))

    assert asyncio.run(story()) <= LOCKS_MAX
