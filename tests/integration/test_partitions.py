"""Daily partitions against a real PostgreSQL: made without holding anybody up, dropped whatever interrupts it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor.schema import partitions
from ingestor.schema.migrate import migrate
from ingestor.schema.partitions import (
    HISTORIES,
    days_ahead,
    drop_expired,
    ensure_partitions,
    partition_name,
)
from postgres.connecting import connect
from postgres.locks import AdvisoryLock
from tests.waiting import wait_until_async

DAY = date(2026, 1, 31)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
METERS, VEHICLES = HISTORIES
METER_DAY, VEHICLE_DAY = partition_name(METERS, DAY), partition_name(VEHICLES, DAY)
INSERT_METER = "INSERT INTO meter_readings_history VALUES (%s, %s, 0.5, 230)"


class Database:
    """A migrated database and the sessions that a test opens to it."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def session(self, *, autocommit: bool = True) -> AsyncIterator[AsyncConnection[TupleRow]]:
        connection = await connect(self.url, autocommit=autocommit)
        try:
            yield connection
        finally:
            await connection.close()

    async def rows(self, query: str, *parameters: object) -> list[TupleRow]:
        async with self.session() as session:
            return await rows(session, query, *parameters)

    async def ensure(self, *days: date) -> list[str]:
        async with self.session(autocommit=False) as session:
            return await ensure_partitions(session, days)

    async def drop(self, keep_days: int, now: datetime = NOON) -> list[str]:
        async with self.session() as session:
            return await drop_expired(session, partitions.oldest_day_kept(keep_days, now))

    async def attached(self) -> set[str]:
        return {
            name
            for (name,) in await self.rows(
                "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent::regclass::text = ANY(%s)",
                list(HISTORIES),
            )
        }

    async def waiting_backend(self, start_of_query: str) -> int:
        """The pid of the session that waits for a lock with this statement."""

        async def found() -> list[TupleRow]:
            return await self.rows(
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND starts_with(query, %s)",
                start_of_query,
            )

        return int((await wait_until_async(found, what=f"a session that waits with {start_of_query}"))[0][0])


async def rows(session: AsyncConnection[TupleRow], query: str, *parameters: object) -> list[TupleRow]:
    cursor = await session.execute(query.encode(), parameters or None)
    return await cursor.fetchall() if cursor.description else []


@pytest.fixture
def database(database_url: str) -> Database:
    async def prepare() -> None:
        async with await connect(database_url) as connection:
            await migrate(connection)

    asyncio.run(prepare())
    return Database(database_url)


# Making


def test_days_ahead_are_utc_days_from_yesterday_on() -> None:
    almost_midnight_in_new_york = datetime(2026, 1, 30, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert days_ahead(almost_midnight_in_new_york) == [date(2026, 1, 30) + timedelta(days=n) for n in range(5)]


def test_both_histories_get_their_days_once(database: Database) -> None:
    async def scenario() -> None:
        made = await database.ensure(DAY, DAY, date(2026, 2, 1))
        assert made == [METER_DAY, f"{METERS}_p20260201", VEHICLE_DAY, f"{VEHICLES}_p20260201"]
        assert await database.attached() == set(made)
        assert await database.ensure(DAY) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York", "Pacific/Kiritimati"])
def test_a_day_is_a_utc_day_whatever_the_time_zone_of_the_session(database: Database, zone: str) -> None:
    async def scenario() -> None:
        async with database.session() as session:
            await rows(session, "SELECT set_config('TimeZone', %s, false)", zone)
            await ensure_partitions(session, [DAY, DAY + timedelta(days=1)])
            for ts in ("2026-01-31T00:00:00Z", "2026-01-31T23:59:59.999999Z", "2026-02-01T00:00:00Z"):
                await rows(session, INSERT_METER, "METER-1", ts)
        stored = await database.rows("SELECT tableoid::regclass::text FROM meter_readings_history ORDER BY ts")
        assert [name for (name,) in stored] == [METER_DAY, METER_DAY, f"{METERS}_p20260201"]

    asyncio.run(scenario())


def test_several_processes_at_once_make_each_partition_once(database: Database) -> None:
    async def scenario() -> None:
        days = [DAY + timedelta(days=n) for n in range(5)]
        made = await asyncio.gather(*(database.ensure(*days) for _ in range(6)))
        assert sorted(name for names in made for name in names) == sorted(await database.attached())

    asyncio.run(scenario())


def test_an_open_writer_and_an_open_reader_are_not_waited_for(database: Database) -> None:
    async def scenario() -> None:
        await database.ensure(DAY)
        async with database.session(autocommit=False) as writer, database.session(autocommit=False) as reader:
            await rows(writer, INSERT_METER, "METER-1", NOON)
            await rows(reader, "SELECT count(*) FROM meter_readings_history")
            async with database.session() as usual:
                await rows(usual, "SET lock_timeout = '50ms'")
                bounds = "FROM ('2026-02-01Z') TO ('2026-02-02Z')"
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    await rows(usual, f"CREATE TABLE tomorrow PARTITION OF {METERS} FOR VALUES {bounds}")
            assert len(await database.ensure(DAY + timedelta(days=1))) == 2
            await writer.commit()
            # And the open transactions see the new day at once.
            await rows(writer, INSERT_METER, "METER-1", NOON + timedelta(days=1))
            assert await rows(reader, "SELECT count(*) FROM meter_readings_history") == [(1,)]

    asyncio.run(scenario())


def test_while_a_partition_is_being_made_everybody_else_goes_on(database: Database) -> None:
    async def scenario() -> None:
        await database.ensure(DAY)
        async with database.session(autocommit=False) as maker:
            await rows(maker, "SELECT 1")  # an outer transaction, so that the locks stay to be looked at
            await ensure_partitions(maker, [DAY + timedelta(days=1)])
            held = await rows(
                maker,
                "SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation::regclass::text = ANY(%s)",
                [*HISTORIES],
            )
            assert {mode for (mode,) in held} == {"AccessShareLock", "ShareUpdateExclusiveLock"}
            async with database.session() as other:
                await rows(other, "SET lock_timeout = '1s'")
                await rows(other, INSERT_METER, "METER-1", NOON)
                assert await rows(other, "SELECT count(*) FROM meter_readings_history") == [(1,)]

    asyncio.run(scenario())


def test_a_lock_that_never_comes_is_given_up_and_the_next_attempt_succeeds(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "CREATE_LOCK_TIMEOUT_MS", 50)

    async def scenario() -> None:
        async with database.session(autocommit=False) as holder:
            await rows(holder, "LOCK TABLE vehicle_readings_history IN SHARE UPDATE EXCLUSIVE MODE")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await database.ensure(DAY)
        assert await database.attached() == set()
        assert await database.ensure(DAY) == [METER_DAY, VEHICLE_DAY]

    asyncio.run(scenario())


def test_each_partition_has_its_indexes_and_vacuum_settings(database: Database) -> None:
    async def scenario() -> None:
        await database.ensure(DAY)
        for name in (METER_DAY, VEHICLE_DAY):
            ((options, checks),) = await database.rows(
                "SELECT reloptions, (SELECT count(*) FROM pg_constraint WHERE conrelid = c.oid AND contype = 'c') "
                "FROM pg_class c WHERE relname = %s",
                name,
            )
            assert {"autovacuum_vacuum_insert_scale_factor=0", "autovacuum_freeze_min_age=0"} <= set(options)
            assert checks == 0, "a CHECK would cost something for every row"
            indexes = await database.rows(
                "SELECT am.amname, i.indisprimary, i.indnatts - i.indnkeyatts, c.reloptions, inhparent IS NOT NULL "
                "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam "
                "LEFT JOIN pg_inherits ON inhrelid = c.oid WHERE i.indrelid = %s::regclass ORDER BY 1",
                name,
            )
            covered = 1 if name == METER_DAY else 2
            assert indexes == [("brin", False, 0, ["autosummarize=on"], True), ("btree", True, covered, None, True)]

    asyncio.run(scenario())


def test_a_detached_day_comes_back_with_its_rows(database: Database) -> None:
    async def scenario() -> None:
        await database.ensure(DAY)
        await database.rows(INSERT_METER, "METER-1", NOON)
        await database.rows(f"ALTER TABLE {METERS} DETACH PARTITION {METER_DAY}")
        assert await database.ensure(DAY) == [METER_DAY]
        assert await database.rows("SELECT meter_id FROM meter_readings_history") == [("METER-1",)]

    asyncio.run(scenario())


def test_a_day_whose_detaching_was_interrupted_comes_back_with_its_rows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "DETACH_LOCK_TIMEOUT_MS", 50)

    async def scenario() -> None:
        await database.ensure(DAY)
        await database.rows(INSERT_METER, "METER-1", NOON)
        async with database.session(autocommit=False) as reader:
            await rows(reader, "SELECT count(*) FROM meter_readings_history")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await database.drop(1, NOON + timedelta(days=9))
        assert await database.rows("SELECT meter_id FROM meter_readings_history") == []
        assert await database.ensure(DAY) == [METER_DAY]
        assert await database.rows("SELECT meter_id FROM meter_readings_history") == [("METER-1",)]

    asyncio.run(scenario())


# Dropping


def test_only_whole_days_past_their_retention_go(database: Database) -> None:
    async def scenario() -> None:
        days = [date(2026, 1, 29) + timedelta(days=n) for n in range(3)]
        await database.ensure(*days)
        for day in days:
            await database.rows(INSERT_METER, "METER-1", datetime(day.year, day.month, day.day, 23, tzinfo=UTC))
        midnight = datetime(2026, 2, 1, tzinfo=UTC)
        assert await database.drop(2, midnight - timedelta(microseconds=1)) == []
        assert await database.drop(2, midnight) == [f"{METERS}_p20260129", f"{VEHICLES}_p20260129"]
        assert await database.rows("SELECT to_regclass(%s)", f"{METERS}_p20260129") == [(None,)]
        assert await database.rows("SELECT min(ts) FROM meter_readings_history") == [
            (datetime(2026, 1, 30, 23, tzinfo=UTC),)
        ]

    asyncio.run(scenario())


def test_a_late_reading_within_the_retention_never_lands_in_a_day_that_goes() -> None:
    """The oldest reading that MAX_READING_AGE_DAYS lets in, at every hour: its day is kept."""
    for hour in range(24):
        now = datetime(2026, 1, 31, hour, tzinfo=UTC)
        oldest_reading = now - timedelta(days=7)
        assert partition_name(METERS, oldest_reading.date()) >= partition_name(
            METERS, partitions.oldest_day_kept(7, now)
        )


def test_dropping_waits_for_open_queries_and_holds_nobody_up_meanwhile(database: Database) -> None:
    async def scenario() -> None:
        await database.ensure(DAY, DAY + timedelta(days=9))
        async with database.session(autocommit=False) as reader, database.session() as flush:
            await rows(reader, "SELECT count(*) FROM meter_readings_history")
            dropping = asyncio.create_task(database.drop(1, NOON + timedelta(days=9)))
            await database.waiting_backend("ALTER TABLE")
            await rows(flush, "SET lock_timeout = '1s'")
            await rows(flush, INSERT_METER, "METER-1", NOON + timedelta(days=9))
            assert await rows(flush, "SELECT count(*) FROM meter_readings_history") == [(1,)]
            assert len(await database.ensure(DAY + timedelta(days=10))) == 2
            await reader.rollback()
            assert await dropping == [METER_DAY, VEHICLE_DAY]

    asyncio.run(scenario())


def test_a_run_that_is_killed_while_it_detaches_is_finished_by_the_next(database: Database) -> None:
    async def scenario() -> None:
        await database.ensure(DAY)
        async with database.session(autocommit=False) as reader:
            await rows(reader, "SELECT count(*) FROM meter_readings_history")
            dropping = asyncio.create_task(database.drop(1, NOON + timedelta(days=9)))
            pid = await database.waiting_backend("ALTER TABLE")
            await database.rows("SELECT pg_terminate_backend(%s)", pid)
            with pytest.raises(psycopg.OperationalError):
                await dropping
        assert await database.rows("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhdetachpending") == [
            (METER_DAY,)
        ]
        assert await database.drop(1, NOON + timedelta(days=9)) == [METER_DAY, VEHICLE_DAY]

    asyncio.run(scenario())


def test_somebody_s_interrupted_detaching_of_another_day_is_finished_first(database: Database) -> None:
    """PostgreSQL lets only one partition of a table be half detached."""
    other = DAY + timedelta(days=9)
    detach = f"ALTER TABLE {METERS} DETACH PARTITION {partition_name(METERS, other)} CONCURRENTLY"

    async def scenario() -> None:
        await database.ensure(DAY, other)
        await database.rows(INSERT_METER, "METER-1", NOON + timedelta(days=9))
        async with database.session(autocommit=False) as reader, database.session() as somebody:
            await rows(reader, "SELECT count(*) FROM meter_readings_history")
            await rows(somebody, "SET lock_timeout = '50ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await rows(somebody, detach)
        assert await database.drop(1, NOON + timedelta(days=9)) == [METER_DAY, VEHICLE_DAY]
        assert await database.rows(f"SELECT count(*) FROM {partition_name(METERS, other)}") == [(1,)]
        assert await database.ensure(other) == [partition_name(METERS, other)]
        assert await database.rows("SELECT count(*) FROM meter_readings_history") == [(1,)]

    asyncio.run(scenario())


def test_a_run_that_is_cancelled_gives_its_session_back_as_it_was(database: Database) -> None:
    async def scenario() -> None:
        await database.ensure(DAY)
        async with database.session() as session, database.session(autocommit=False) as reader:
            before = await rows(session, "SHOW lock_timeout")
            await rows(reader, "SELECT count(*) FROM meter_readings_history")
            dropping = asyncio.create_task(drop_expired(session, DAY + timedelta(days=8)))
            await database.waiting_backend("ALTER TABLE")
            dropping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dropping
            assert await rows(session, "SHOW lock_timeout") == before
            assert await rows(session, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]

    asyncio.run(scenario())


def test_a_run_that_is_killed_before_it_drops_is_finished_by_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    async def scenario() -> None:
        await database.ensure(DAY)
        with monkeypatch.context() as patch:
            patch.setattr(partitions, "_drop_detached", killed)
            async with database.session() as session:
                with pytest.raises(KeyboardInterrupt):
                    await drop_expired(session, DAY + timedelta(days=8))
        assert await database.attached() == {VEHICLE_DAY}
        assert await database.rows("SELECT to_regclass(%s)::text", METER_DAY) == [(METER_DAY,)]
        assert await database.drop(1, NOON + timedelta(days=9)) == [METER_DAY, VEHICLE_DAY]

    asyncio.run(scenario())


def test_a_late_reading_that_brings_a_day_back_stops_its_dropping_until_the_next_run(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    detach = partitions._detach

    async def detach_then_a_late_reading_comes(session: Any, history: str, table: Any) -> None:
        await detach(session, history, table)
        if history == METERS:
            await database.ensure(DAY)
            await database.rows(INSERT_METER, "METER-1", NOON)

    async def scenario() -> None:
        await database.ensure(DAY)
        with monkeypatch.context() as patch:
            patch.setattr(partitions, "_detach", detach_then_a_late_reading_comes)
            assert await database.drop(1, NOON + timedelta(days=9)) == [VEHICLE_DAY]
        assert await database.rows("SELECT count(*) FROM meter_readings_history") == [(1,)]
        assert await database.drop(1, NOON + timedelta(days=9)) == [METER_DAY]

    asyncio.run(scenario())


def test_a_day_that_somebody_detached_to_keep_is_left_alone(database: Database) -> None:
    async def scenario() -> None:
        await database.ensure(DAY)
        await database.rows(f"ALTER TABLE {METERS} DETACH PARTITION {METER_DAY}")
        await database.rows(f"CREATE TABLE {METERS}_p20200101 (note text)")
        assert await database.drop(1, NOON + timedelta(days=9)) == [VEHICLE_DAY]
        assert await database.rows("SELECT to_regclass(%s)::text", METER_DAY) == [(METER_DAY,)]

    asyncio.run(scenario())


def test_one_process_drops_while_the_others_do_nothing(database: Database) -> None:
    async def scenario() -> None:
        days = [DAY + timedelta(days=n) for n in range(4)]
        made = await database.ensure(*days)
        async with database.session() as other:
            await rows(other, "SELECT pg_advisory_lock(%s)", int(AdvisoryLock.RETENTION))
            assert await database.drop(1, NOON + timedelta(days=30)) == []
        runs = await asyncio.gather(*(database.drop(1, NOON + timedelta(days=30)) for _ in range(4)))
        assert sorted(name for names in runs for name in names) == sorted(made)

    asyncio.run(scenario())


# Reading


def test_a_vehicles_day_is_read_from_the_index_alone_and_from_no_other_day(database: Database) -> None:
    async def scenario() -> None:
        days = [DAY + timedelta(days=n) for n in range(-2, 3)]
        await database.ensure(*days)
        await database.rows(
            "INSERT INTO vehicle_readings_history "
            "SELECT 'VEH-' || v, ts, 75, 0.15, 31 FROM generate_series(1, 40) v, generate_series("
            "  '2026-01-29T00:00:00Z'::timestamptz, '2026-02-02T23:55:00Z', '5 minutes') ts"
        )
        for day in days:
            await database.rows(f"VACUUM ANALYZE {partition_name(VEHICLES, day)}")
        async with database.session() as session:
            cursor = await session.execute(
                "EXPLAIN (ANALYZE, FORMAT JSON) SELECT sum(kwh_delivered_dc), avg(battery_temp), count(*) "
                "FROM vehicle_readings_history WHERE vehicle_id = %s AND ts >= %s AND ts < %s",
                ["VEH-7", NOON - timedelta(hours=24), NOON],
            )
            ((explained,),) = await cursor.fetchall()
        scans = scans_of(explained[0]["Plan"])
        assert {scan["Relation Name"] for scan in scans} == {f"{VEHICLES}_p20260130", VEHICLE_DAY}
        assert {scan["Node Type"] for scan in scans} == {"Index Only Scan"}, json.dumps(scans)
        assert sum(scan["Heap Fetches"] for scan in scans) == 0
        assert sum(scan["Actual Rows"] * scan["Actual Loops"] for scan in scans) == 288

    asyncio.run(scenario())


def scans_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a plan that read a table."""
    below = [scan for child in plan.get("Plans", []) for scan in scans_of(child)]
    return [plan, *below] if "Relation Name" in plan else below
