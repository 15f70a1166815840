"""The tables spread over a cluster: moved there once, safe there, and with the answers of one server.

Whole modules run on the cluster as well (the mark `citus_too`); here is what is about it alone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
import pytest

from analytics_api.analytics.fleet_figures import FLEET, FleetPeriod, fleet_parameters
from analytics_api.analytics.pairs import MeterConvention
from analytics_api.analytics.performance import PERFORMANCE, performance_parameters
from analytics_api.http.parameters import Window
from ingestor.batch import Batch
from ingestor.batch import Row as BatchRow
from ingestor.hourly import HOUR_US, hour_of, roll
from ingestor.schema.cluster import locks_needed
from ingestor.schema.distribution import DISTRIBUTED, LEADER, distribute
from ingestor.schema.migrate import migrate
from ingestor.schema.partitions import days_ahead, drop_expired, ensure_partitions
from ingestor.sink import Sink
from postgres.connecting import Session, connect
from telemetry.kinds import KINDS
from tests.backends import Database
from tests.citus import CITUS_URL, SHARDS, CitusCluster, needs_citus, worker_url
from tests.databases import a_database, migrated_template
from tests.processes import WattlineProcess

Row = tuple[Any, ...]

CONVENTION = MeterConvention("V-", "M-")
NOW = datetime.now(UTC)
DEVICES = 12


@pytest.fixture(scope="module")
def cluster() -> CitusCluster:
    assert CITUS_URL
    return CitusCluster(CITUS_URL)


@pytest.fixture(scope="module")
def spread_database(cluster: CitusCluster) -> Iterator[str]:
    """With the schema, spread over the cluster; to make one takes seconds."""
    with a_database(cluster, migrated_template(cluster)) as url:
        yield url


@pytest.fixture
def spread_url(spread_database: str) -> str:
    """The same, emptied."""
    with psycopg.connect(spread_database, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(DISTRIBUTED)}".encode())
    return spread_database


def batches(seed: int) -> list[Batch]:
    """Readings of pairs over some hours, a part of them late, some of them twice, some with other values."""
    rng, found, sent = Random(seed), list[Batch](), list[Row]()
    for number in range(4):
        batch = Batch(may_be_stored=number % 2 == 1)
        for place in range(150):
            ts_us = int(NOW.timestamp() * 1e6) - rng.randrange(5 * HOUR_US) - place
            device = rng.randrange(DEVICES)
            batch.rows["meter"].append((f"M-{device}", ts_us, rng.random(), 230.0))
            batch.rows["vehicle"].append((f"V-{device}", ts_us, 50.0, rng.random() * 0.8, rng.uniform(-20, 60)))
        if sent:
            batch.rows["meter"] += [rng.choice(sent) for _ in range(20)]
            repeated = rng.choice(sent)
            batch.rows["meter"].append((*repeated[:2], repeated[2] + 1, repeated[3]))
            batch.may_be_stored = True
        sent += batch.rows["meter"][:150]
        found.append(batch)
    return found


async def tell(url: str, seed: int) -> dict[str, Any]:
    """Store the same, sum a part of it, and give every answer about it."""
    async with await connect(url, autocommit=True) as connection:
        await ensure_partitions(connection, [*days_ahead(NOW), (NOW - timedelta(hours=6)).date()])
        sink, outcomes = Sink(url), []
        for number, batch in enumerate(batches(seed)):
            outcome = await sink.store(batch)
            outcomes.append((outcome.committed, outcome.duplicate, sorted(each.code for each in outcome.refused)))
            if number == 1:
                while (rolled := await roll(connection)) is None or rolled.hours:
                    pass
        await sink.close()
        period = FleetPeriod(24, NOW + timedelta(seconds=1))
        fleet = await rows(connection, FLEET, fleet_parameters(CONVENTION, period))
        window = Window(period.start, period.end)
        alone = [
            (await rows(connection, PERFORMANCE, performance_parameters(CONVENTION, f"V-{number}", window)))[0]
            for number in range(DEVICES)
        ]
        return {
            "outcomes": outcomes,
            "fleet": sorted(fleet),
            "alone": sorted(alone),
            "status": sorted(
                await rows(connection, "SELECT meter_id, last_reading, kwh_consumed_ac, voltage FROM meter_status")
            ),
            "count": await rows(connection, "SELECT count(*), sum(kwh_consumed_ac) FROM meter_readings_history"),
        }


async def rows(connection: Session, query: str | bytes, parameters: Any = None) -> list[Row]:
    statement = query if isinstance(query, bytes) else query.encode()
    return await (await connection.execute(statement, parameters)).fetchall()


def assert_same(one: Any, many: Any) -> None:
    """To the last digit, but for the order in which a sum was made."""
    if isinstance(one, float):
        assert math.isclose(one, many, rel_tol=1e-9)
    elif isinstance(one, dict):
        assert one.keys() == many.keys()
        for key, value in one.items():
            assert_same(value, many[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(many)
        for left, right in zip(one, many, strict=True):
            assert_same(left, right)
    else:
        assert one == many


@needs_citus
def test_the_same_readings_get_the_same_answers_on_one_server_and_on_many(
    postgres_server: Database, spread_url: str
) -> None:
    seed = time.time_ns()
    with a_database(postgres_server, migrated_template(postgres_server)) as url:
        one = asyncio.run(tell(url, seed))
    many = asyncio.run(tell(spread_url, seed))
    assert sum(coverage for coverage, *_ in one["count"]) >= 600, f"seed {seed}"
    assert_same(one, many)


@needs_citus
def test_a_database_that_holds_readings_is_moved_once(cluster: CitusCluster) -> None:
    async def story(url: str) -> None:
        async with await connect(url, autocommit=True) as connection:
            await migrate(connection)
            await ensure_partitions(connection, days_ahead(NOW))
            sink = Sink(url)
            for batch in batches(7):
                await sink.store(batch)
            before = await told(connection)
            assert await distribute(connection, SHARDS) == list(DISTRIBUTED)
            assert await told(connection) == before
            # Each whole hour is invalid in each shard, and nothing of what was moved is left in our own files.
            places = await rows(connection, "SELECT place FROM hourly_places")
            assert len(places) == SHARDS
            whole = "SELECT kind, hour, count(DISTINCT place) FROM hourly_invalidations WHERE device_id IS NULL"
            found = await rows(connection, f"{whole} GROUP BY 1, 2")
            assert {count for _, _, count in found} == {SHARDS}
            assert await rows(
                connection, "SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(%s)", [LEADER]
            ) == [(0,)]
            assert await distribute(connection, None) == []
            for batch in batches(8):
                await sink.store(batch)
            await sink.close()
            while (rolled := await roll(connection)) is None or rolled.hours:
                pass
            assert await unsummed(connection) == []

    with a_database(cluster) as url:
        asyncio.run(story(url))


async def told(connection: Session) -> list[Row]:
    found = []
    for kind in KINDS:
        for table in (kind.history, kind.status):
            found += await rows(connection, f"SELECT count(*), min({kind.id_column}) FROM {table}")
    return found


async def unsummed(connection: Session) -> list[Row]:
    """Devices and hours that are over, whose sum is not that of their readings."""
    running = hour_of(datetime.now(UTC))
    raw = "SELECT meter_id, date_trunc('hour', ts, 'UTC'), count(*) FROM meter_readings_history GROUP BY 1, 2"
    readings = {(device, hour): count for device, hour, count in await rows(connection, raw) if hour < running}
    summed = await rows(connection, "SELECT meter_id, hour, readings FROM meter_hourly")
    sums = {(device, hour): count for device, hour, count in summed if hour < running}
    return [(*key, count, sums.get(key)) for key, count in readings.items() if sums.get(key) != count]


@needs_citus
def test_a_late_reading_is_a_sign_of_life_there_too(spread_url: str) -> None:
    async def story() -> None:
        sink, now_us = Sink(spread_url), int(NOW.timestamp() * 1e6)
        async with await connect(spread_url, autocommit=True) as connection:
            await sink.store(Batch(rows={"meter": [("M-1", now_us, 1.0, 230.0)], "vehicle": []}))
            first = await rows(connection, "SELECT last_reading, last_updated FROM meter_status")
            await sink.store(Batch(rows={"meter": [("M-1", now_us - 1_000_000, 2.0, 230.0)], "vehicle": []}))
            second = await rows(connection, "SELECT last_reading, last_updated FROM meter_status")
            assert (second[0][0], second[0][1] > first[0][1]) == (first[0][0], True)
        await sink.close()

    asyncio.run(story())


@needs_citus
def test_a_device_that_somebody_has_locked_waits_alone(spread_url: str) -> None:
    async def story() -> None:
        sink, now_us = Sink(spread_url), int(NOW.timestamp() * 1e6)
        fleet: list[BatchRow] = [(f"M-{number}", now_us, 1.0, 230.0) for number in range(20)]
        await sink.store(Batch(rows={"meter": fleet, "vehicle": []}))
        async with (
            await connect(spread_url, autocommit=True) as holder,
            await connect(spread_url, autocommit=True) as connection,
            holder.transaction(),
        ):
            await holder.execute("UPDATE meter_status SET voltage = 1 WHERE meter_id = 'M-3'")
            later: list[BatchRow] = [(f"M-{number}", now_us + 1, 1.0, 230.0) for number in range(20)]
            batch = Batch(rows={"meter": later, "vehicle": []}, may_be_stored=True, blocked=True)
            outcome = await sink.store(batch)
            assert [row[0] for row in outcome.later["meter"]] == ["M-3"]
            assert outcome.committed["meter"] == 19
            assert await rows(connection, "SELECT count(*) FROM meter_readings_history") == [(39,)]
        await sink.close()

    asyncio.run(story())


@needs_citus
def test_the_api_s_role_asks_every_worker_and_may_no_more_than_on_one_server(
    cluster: CitusCluster, spread_url: str
) -> None:
    with psycopg.connect(spread_url, autocommit=True) as connection:
        connection.execute("SET ROLE wattline_api")
        assert connection.execute("SELECT count(*) FROM meter_readings_history").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM meter_status")
    database = psycopg.conninfo.conninfo_to_dict(spread_url)["dbname"]
    for number in range(len(cluster.workers)):
        with psycopg.connect(worker_url(cluster, number, str(database)), autocommit=True) as worker:
            worker.execute("SET ROLE wattline_api")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                worker.execute("DELETE FROM meter_status")


@needs_citus
def test_days_come_and_go_within_the_locks_that_the_formula_names(cluster: CitusCluster, spread_url: str) -> None:
    """Made five at a time, dropped one by one, with the locks of a worker counted meanwhile."""
    days = [(NOW - timedelta(days=number)).date() for number in range(20)]

    async def story() -> None:
        async with await connect(spread_url, autocommit=True) as connection:
            for start in range(0, len(days), 5):
                await ensure_partitions(connection, days[start : start + 5])
            assert len(await drop_expired(connection, days[9])) == 2 * (len(days) - 10)

    time.monotonic()
    most = asyncio.run(_with_locks_counted(cluster, spread_url, story))
    shards = -(-SHARDS // len(cluster.workers))
    assert most <= locks_needed(shards, len(days))


async def _with_locks_counted(cluster: CitusCluster, url: str, story: Callable[[], Any]) -> int:
    database = str(psycopg.conninfo.conninfo_to_dict(url)["dbname"])
    most, query = 0, "SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database AND datname = %s"
    working = asyncio.create_task(story())
    async with await connect(worker_url(cluster, 0, database), autocommit=True) as worker:
        while not working.done():
            ((count,),) = await rows(worker, query, [database])
            most = max(most, count)
            await asyncio.wait([working], timeout=0.02)
    await working
    return most


def test_without_the_extension_it_is_one_line(
    start_wattline: Callable[..., WattlineProcess], database_url: str
) -> None:
    process = start_wattline("migrate", "--distributed", DATABASE_URL=database_url)
    assert process.wait() == 1
    assert "no extension citus" in process.output()
    assert "Traceback" not in process.output()


def test_shards_are_nothing_by_themselves(start_wattline: Callable[..., WattlineProcess]) -> None:
    process = start_wattline("migrate", "--shards", "4")
    assert process.wait() == 2
    assert "--distributed" in process.output()
