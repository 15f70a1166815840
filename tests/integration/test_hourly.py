"""Hourly sums are right wherever no invalidation says otherwise: at every moment, whoever writes meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

import psycopg
import pytest

from ingestor.batch import Batch
from ingestor.hourly import HOUR_US, LATE_DEVICES_MAX, delete_expired_sums, invalidations, roll
from ingestor.schema.migrate import known_migrations, migrate
from ingestor.schema.partitions import days_ahead, ensure_partitions
from ingestor.sink import Sink
from postgres.connecting import connect
from tests.processes import WattlineProcess

# Devices and hours whose sum is not that of the rows, although nothing says that it is out of date.
WRONG = """
    WITH raw AS (
        SELECT 'meter' AS kind, date_trunc('hour', ts) AS hour, meter_id AS id, sum(kwh_consumed_ac) AS kwh,
               0 AS temperature, count(*) AS readings
        FROM meter_readings_history GROUP BY 2, 3
        UNION ALL
        SELECT 'vehicle', date_trunc('hour', ts), vehicle_id, sum(kwh_delivered_dc), sum(battery_temp), count(*)
        FROM vehicle_readings_history GROUP BY 2, 3
    ), summed AS (
        SELECT 'meter' AS kind, hour, meter_id AS id, kwh_consumed_ac AS kwh, 0 AS temperature, readings
        FROM meter_hourly
        UNION ALL
        SELECT 'vehicle', hour, vehicle_id, kwh_delivered_dc, battery_temp_sum, readings FROM vehicle_hourly
    )
    SELECT kind, hour, id, raw.readings, summed.readings
    FROM raw FULL JOIN summed USING (kind, hour, id)
    WHERE NOT EXISTS (
        SELECT FROM hourly_invalidations AS invalid
        WHERE invalid.kind = coalesce(raw.kind, summed.kind)
            AND invalid.hour = coalesce(raw.hour, summed.hour)
            AND coalesce(invalid.device_id = coalesce(raw.id, summed.id), true)
    ) AND NOT coalesce(
        raw.readings = summed.readings AND abs(raw.kwh - summed.kwh) <= 1e-9 * raw.kwh
            AND abs(raw.temperature - summed.temperature) <= 1e-9 * abs(raw.temperature), false)"""


async def prepared(url: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
    connection = await connect(url, autocommit=True)
    await migrate(connection)
    await ensure_partitions(connection, days_ahead(datetime.now(UTC)))
    return connection


def batch_of(rng: Random, numbers: itertools.count[int], *, hours_back: int, readings: int) -> Batch:
    """Readings of a few devices in the running hour and those before it; timestamps that no other batch has."""
    batch = Batch()
    now_us = int(time.time() * 1_000_000)
    for _ in range(readings):
        ts_us = now_us - rng.randrange(hours_back + 1) * HOUR_US - next(numbers)
        device = rng.randrange(20)
        batch.rows["meter"].append((f"M-{device}", ts_us, rng.random(), 230.0))
        batch.rows["vehicle"].append((f"V-{device}", ts_us, 50.0, rng.random(), rng.uniform(-20, 60)))
    return batch


async def rows(connection: psycopg.AsyncConnection[tuple[object, ...]], query: str) -> list[tuple[object, ...]]:
    return await (await connection.execute(query.encode())).fetchall()


async def roll_everything(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    while (rolled := await roll(connection)) is None or rolled.hours:
        pass


def test_a_roll_sums_what_is_over(database_url: str) -> None:
    async def story() -> None:
        connection, sink = await prepared(database_url), Sink(database_url)
        async with connection:
            batch = batch_of(Random(1), itertools.count(), hours_back=3, readings=500)
            await sink.store(batch)
            assert await rows(connection, WRONG) == []
            assert await rows(connection, "SELECT 1 FROM meter_hourly") == []
            await roll_everything(connection)
            assert await rows(connection, WRONG) == []
            expected: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
            running = int(time.time()) // 3600
            for device, ts_us, kwh, _ in batch.rows["meter"]:
                if ts_us // HOUR_US < running:
                    expected[device, ts_us // HOUR_US].append(kwh)
            sums = await rows(
                connection,
                "SELECT meter_id, extract(epoch FROM hour)::bigint / 3600, kwh_consumed_ac, readings FROM meter_hourly",
            )
            assert {(device, hour): readings for device, hour, _, readings in sums} == {
                key: len(values) for key, values in expected.items()
            }
            for device, hour, kwh, _ in sums:
                assert math.isclose(kwh, math.fsum(expected[device, hour]), rel_tol=1e-9)  # type: ignore[arg-type, index]
            # Only the running hour's entries are left.
            left = await rows(connection, "SELECT 1 FROM hourly_invalidations WHERE hour < date_trunc('hour', now())")
            assert left == []
        await sink.close()

    asyncio.run(story())


def test_late_and_repeated_readings_are_in_the_next_roll(database_url: str) -> None:
    async def story() -> None:
        connection, sink = await prepared(database_url), Sink(database_url)
        async with connection:
            rng, numbers = Random(2), itertools.count()
            first = batch_of(rng, numbers, hours_back=2, readings=200)
            await sink.store(first)
            await roll_everything(connection)
            first.may_be_stored = True
            await sink.store(first)
            await sink.store(batch_of(rng, numbers, hours_back=2, readings=7))
            assert await rows(connection, WRONG) == []
            await roll_everything(connection)
            assert await rows(connection, WRONG) == []
            raw = await rows(
                connection, "SELECT count(*) FROM meter_readings_history WHERE ts < date_trunc('hour', now())"
            )
            assert await rows(connection, "SELECT sum(readings)::bigint FROM meter_hourly") == raw
        await sink.close()

    asyncio.run(story())


def test_the_sums_are_exact_while_writers_and_rollers_are_at_work(database_url: str) -> None:
    """Four ingestors with late batches, two rollers, and somebody who looks all the time."""

    async def story() -> None:
        connection = await prepared(database_url)
        numbers = itertools.count()
        writing = True

        async def write(seed: int) -> None:
            rng, sink = Random(seed), Sink(database_url)
            for _ in range(25):
                await sink.store(batch_of(rng, numbers, hours_back=2, readings=20))
            await sink.close()

        async def keep_rolling() -> int:
            rolled = 0
            async with await connect(database_url, autocommit=True) as mine:
                while writing:
                    outcome = await roll(mine)
                    rolled += outcome.hours if outcome is not None else 0
            return rolled

        async def keep_looking() -> int:
            looks = 0
            async with await connect(database_url, autocommit=True) as mine:
                while writing:
                    assert await rows(mine, WRONG) == []
                    looks += 1
            return looks

        async with connection:
            async with asyncio.TaskGroup() as group:
                rollers = [group.create_task(keep_rolling()) for _ in range(2)]
                looking = group.create_task(keep_looking())
                writers = [group.create_task(write(seed)) for seed in range(4)]
                await asyncio.wait(writers)
                writing = False
            assert sum(task.result() for task in rollers) > 10
            assert looking.result() > 3
            await roll_everything(connection)
            assert await rows(connection, WRONG) == []
            raw = await rows(
                connection, "SELECT count(*) FROM vehicle_readings_history WHERE ts < date_trunc('hour', now())"
            )
            assert await rows(connection, "SELECT coalesce(sum(readings), 0)::bigint FROM vehicle_hourly") == raw

    asyncio.run(story())


def test_many_late_devices_are_one_entry() -> None:
    now = time.time()
    batch = Batch()
    late_us = int(now) * 1_000_000 - 2 * HOUR_US
    batch.rows["meter"] = [(f"M-{number}", late_us, 1.0, 230.0) for number in range(LATE_DEVICES_MAX + 1)]
    batch.rows["vehicle"] = [("V-1", late_us, 50.0, 1.0, 20.0)]
    hour = datetime.fromtimestamp(late_us // HOUR_US * 3600, UTC)
    assert invalidations(batch, [late_us // 1_000_000], now) == [("meter", hour, None), ("vehicle", hour, "V-1")]


@pytest.mark.empty_database
def test_readings_from_before_the_sums_are_summed_after_the_upgrade(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = known_migrations()

    async def story() -> None:
        async with await connect(database_url, autocommit=True) as connection:
            monkeypatch.setattr("ingestor.schema.migrate.known_migrations", lambda: everything[:1])
            await migrate(connection)
            await connection.execute(
                b"CREATE TABLE day PARTITION OF meter_readings_history FOR VALUES FROM ('2026-01-30') TO ('2026-01-31')"
            )
            await connection.execute(
                b"INSERT INTO meter_readings_history VALUES ('M-1', '2026-01-30 13:59:59.999999+00', 0.5, 230)"
            )
            monkeypatch.undo()
            await migrate(connection)
            await roll_everything(connection)
            assert await rows(connection, WRONG) == []
            found = await rows(connection, "SELECT meter_id, hour, kwh_consumed_ac, readings FROM meter_hourly")
            assert found == [("M-1", datetime(2026, 1, 30, 13, tzinfo=UTC), 0.5, 1)]

    asyncio.run(story())


def test_rebuild_puts_right_what_somebody_broke(
    database_url: str, start_wattline: Callable[..., WattlineProcess]
) -> None:
    async def stored() -> None:
        connection, sink = await prepared(database_url), Sink(database_url)
        async with connection:
            await sink.store(batch_of(Random(3), itertools.count(), hours_back=3, readings=100))
            await roll_everything(connection)
            await connection.execute(b"UPDATE meter_hourly SET kwh_consumed_ac = 1000")
            await connection.execute(b"DELETE FROM vehicle_hourly")
            assert await rows(connection, WRONG)
        await sink.close()

    async def wrong() -> list[tuple[object, ...]]:
        async with await connect(database_url, autocommit=True) as connection:
            return await rows(connection, WRONG)

    asyncio.run(stored())
    start, end = (f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}" for hours in (-6, 1))
    rebuild = start_wattline("rebuild-hourly", "--from", start, "--to", end, DATABASE_URL=database_url)
    assert rebuild.wait() == 0, rebuild.output()
    assert asyncio.run(wrong()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "yesterday", "--to", "2026-01-31"), "is not a time like"),
        (("--from", "2026-01-31", "--to", "2026-01-30"), "--to must be later than --from"),
        (("--from", "2026-01-31"), "--to"),
    ],
)
def test_a_stretch_that_is_none(
    start_wattline: Callable[..., WattlineProcess], database_url: str, arguments: tuple[str, ...], said: str
) -> None:
    rebuild = start_wattline("rebuild-hourly", *arguments, DATABASE_URL=database_url)
    assert rebuild.wait() == 2
    assert said in rebuild.output()
    assert "Traceback" not in rebuild.output()


def test_sums_go_with_their_readings(database_url: str) -> None:
    async def story() -> None:
        connection, sink = await prepared(database_url), Sink(database_url)
        async with connection:
            await sink.store(batch_of(Random(4), itertools.count(), hours_back=3, readings=100))
            await roll_everything(connection)
            before = datetime.now(UTC) - timedelta(hours=1, minutes=59)
            assert await delete_expired_sums(connection, before) > 0
            oldest = await rows(connection, "SELECT min(hour) FROM meter_hourly")
            assert oldest[0][0] >= before  # type: ignore[operator]
        await sink.close()

    asyncio.run(story())
