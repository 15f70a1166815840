"""Behind PgBouncer: session mode serves everything, every other mode is refused with one line that says why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingestor.batch import Batch
from ingestor.schema.migrate import migrate
from ingestor.sink import FlushTimeoutError, Sink
from postgres.connecting import Session, connect
from postgres.fitness import UnfitError
from postgres.session import Limits
from tests.backends import Broker
from tests.devices import Device, meter_reading
from tests.faults.counting import assert_books_balance, assert_stored_once
from tests.faults.load import publish_all
from tests.metrics import metric
from tests.pgbouncer import pgbouncer
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until


def test_session_mode(
    database_url: str,
    broker: Broker,
    publisher: Device,
    start_wattline: Callable[..., WattlineProcess],
    tmp_path: Path,
) -> None:
    """Migration, ingest with every chore, and the API; the sessions are handed on from one to the next."""
    with pgbouncer(tmp_path / "pooler", database_url, "session") as url:
        migrate = start_wattline("migrate", DATABASE_URL=url)
        assert migrate.wait() == 0, migrate.output()
        ingestor = start_wattline("ingest", DATABASE_URL=url, MQTT_URL=broker.url, RETENTION_DAYS="30")
        api = start_wattline("api", DATABASE_URL=url, MQTT_URL=broker.url)
        ingestor.wait_ready()
        api.wait_ready()
        published = [("meter", meter_reading(f"M-{n % 10}", voltage=230 + n / 100)) for n in range(100)]
        publish_all(publisher, published)
        assert_stored_once(database_url, published, timeout=30)
        assert assert_books_balance(ingestor) == len(published)
        name = "wattline_chore_last_success_timestamp_seconds"
        for chore in ("partitions", "retention", "quarantine", "hourly", "intervals", "gauges"):
            wait_until(lambda chore=chore: metric(ingestor, name, chore=chore) > 0, what=chore)
        assert get_status(f"{api.http_url}/v1/telemetry/meter/M-1/status") == 200
        wait_until(lambda: "acts as the role wattline_api" in api.output(), what="the API's role")

        async def mine() -> tuple[str, ...]:
            """A session that somebody else has used before."""
            async with await connect(url, autocommit=True) as session:
                assert session.backend_pid != session.info.backend_pid
                row = await (await session.execute("SELECT current_user::text, current_setting('role')")).fetchone()
                return row or ()

        assert asyncio.run(mine()) == ("postgres", "none")


def test_a_session_that_is_handed_on_as_it_was_left(database_url: str, tmp_path: Path) -> None:
    async def story(url: str) -> tuple[object, ...] | None:
        async with await connect(url, autocommit=True) as session:
            first = session.backend_pid
            await session.execute("CREATE ROLE somebody")
            await session.execute("CREATE TEMPORARY TABLE meter_status ()")
            for _ in range(10):  # from some point on it is a prepared statement
                await session.execute("SELECT %s::int", [1])
            await session.execute("SET statement_timeout TO '1ms'")
            await session.execute("SET ROLE somebody")
        async with await connect(url, autocommit=True) as session:
            assert session.backend_pid == first
            for _ in range(10):
                await session.execute("SELECT %s::int + 1", [1])
            query = "SELECT current_user::text, current_setting('statement_timeout'), current_schema()::text"
            row = await (await session.execute(query)).fetchone()
            await session.execute("DROP ROLE somebody")
            return row

    with pgbouncer(tmp_path / "pooler", database_url, "session", "server_reset_query =") as url:
        assert asyncio.run(story(url)) == ("postgres", "0", "public")


def test_a_backend_that_was_given_up_is_ended_through_the_pooler(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is the server's own: the pooler tells clients another one."""
    monkeypatch.setattr("ingestor.sink.LIMITS", Limits(lock_ms=120_000))  # it does not end by itself
    batch = Batch(rows={"meter": [("M-1", int(time.time()) * 1_000_000, 1.0, 230.0)], "vehicle": []})
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def story(url: str, locker: psycopg.Connection[Any]) -> None:
        sink = Sink(url, timeout_seconds=5.0)
        with pytest.raises(FlushTimeoutError):
            await sink.store(batch)
        ((given_up,),) = locker.execute(waiting).fetchall()
        with pytest.raises(FlushTimeoutError):
            await sink.store(batch)
        wait_until(lambda: (given_up,) not in locker.execute(waiting).fetchall(), what="the end of the former backend")
        await sink.close()

    async def prepare() -> None:
        async with await connect(database_url, autocommit=True) as session:
            await migrate(session)

    asyncio.run(prepare())
    with pgbouncer(tmp_path / "pooler", database_url, "session") as url, psycopg.connect(database_url) as locker:
        locker.execute("LOCK TABLE meter_status IN ACCESS EXCLUSIVE MODE")
        asyncio.run(story(url, locker))


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_modes_that_share_sessions(
    database_url: str, start_wattline: Callable[..., WattlineProcess], tmp_path: Path, mode: str
) -> None:
    with pgbouncer(tmp_path / "pooler", database_url, mode) as url:
        processes = [start_wattline(command, DATABASE_URL=url) for command in ("migrate", "ingest")]
        for process in processes:
            assert process.wait() == 1, process.output()
            said = [line for line in process.output().splitlines() if "pool_mode = session" in line]
            assert len(said) == 1, process.output()
            assert "Traceback" not in process.output()
        if mode == "transaction":
            _busy_pools_are_found_out(url)


def _busy_pools_are_found_out(url: str) -> None:
    """Others come and go at the pooler, so that no two looks meet the same backends."""

    async def others(stop: asyncio.Event) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            while not stop.is_set():
                await connection.execute("SELECT pg_sleep(random() / 200)", prepare=False)

    async def story() -> None:
        stop = asyncio.Event()
        busy = [asyncio.create_task(others(stop)) for _ in range(4)]
        try:
            for _ in range(20):
                with pytest.raises(UnfitError):
                    await Session.connect(url)
        finally:
            stop.set()
            await asyncio.gather(*busy)

    asyncio.run(story())
