"""Each chore stands alone: its failures, of any type, are counted and told once; the others and the ingest go on."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from config.settings import load_settings
from ingestor.housekeeping import chores
from ingestor.housekeeping.chores import Chore, keep_doing
from ingestor.schema.migrate import migrate
from ingestor.schema.partitions import ensure_partitions, partition_name
from ingestor.service import Ingestor
from ingestor.writer import Writer
from postgres.connecting import Session, connect
from tests.backends import Broker
from tests.faults.flushes import wait_until_blocked
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.waiting import wait_until, wait_until_async


class Books:
    """Counts rounds by chore."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def chore_done(self, chore: str, now: float) -> None:
        self.done[chore] += 1

    def chore_failed(self, chore: str) -> None:
        self.failed[chore] += 1


@pytest.fixture
def migrated_url(database_url: str) -> str:
    async def prepare() -> None:
        async with await connect(database_url, autocommit=True) as session:
            await migrate(session)

    asyncio.run(prepare())
    return database_url


def test_what_goes_wrong_in_one_is_counted_told_once_and_tried_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chores, "RETRY_SECONDS_MIN", 0.01)
    monkeypatch.setattr(chores, "RETRY_SECONDS_MAX", 0.02)
    books, mended = Books(), asyncio.Event()

    async def a_bug(_: Session) -> bool:
        if not mended.is_set():
            raise ZeroDivisionError("secret of nobody")
        return False

    async def a_bad_statement(session: Session) -> bool:
        await session.execute("SELECT 1 / 0")
        return False

    async def well(_: Session) -> bool:
        return False

    async def silent(session: Session) -> bool:
        await session.execute("SELECT pg_sleep(3600)")
        return False

    async def story() -> None:
        every = [
            Chore("partitions", a_bug, 0.01, 5),
            Chore("retention", a_bad_statement, 0.01, 5),
            Chore("gauges", well, 0.01, 5),
            Chore("hourly", silent, 0.01, 1.0),
        ]
        doing = [
            asyncio.create_task(keep_doing(chore, conninfo=database_url, label="here", books=books)) for chore in every
        ]
        await wait_until_async(lambda: all(books.failed[name] >= 3 for name in ("partitions", "retention", "hourly")))
        await wait_until_async(lambda: books.done["gauges"] >= 3)
        mended.set()
        await wait_until_async(lambda: books.done["partitions"] >= 1)
        for task in doing:
            task.cancel()
        await asyncio.wait(doing)
        assert all(task.cancelled() for task in doing)

    with caplog.at_level(logging.INFO):
        asyncio.run(story())
    said = [record.getMessage() for record in caplog.records if record.name == chores.__name__]
    assert sorted(said) == [
        "hourly: PostgreSQL at here: no end within 1 s, so we hung up; trying again",
        "partitions: a fault of wattline; trying again",
        "partitions: works again",
        "retention: PostgreSQL at here: division by zero; trying again",
    ]
    assert caplog.text.count("Traceback") == 1


def test_a_forgotten_transaction_holds_up_one_chore_alone(
    migrated_url: str, broker: Broker, start_wattline: Callable[..., WattlineProcess], caplog: pytest.LogCaptureFixture
) -> None:
    """In somebody's psql: BEGIN; SELECT ..., and then the phone rang."""
    old = datetime.now(UTC) - timedelta(days=40)

    async def prepare() -> None:
        async with await connect(migrated_url, autocommit=True) as session:
            await ensure_partitions(session, [old.date()])

    def rows(query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(migrated_url) as connection:
            return connection.execute(query.encode()).fetchall()

    asyncio.run(prepare())
    with psycopg.connect(migrated_url, application_name="psql") as forgotten:
        forgotten.execute(
            "INSERT INTO rejected_messages (received_at, topic, payload, reason_code, reason)"
            " VALUES (%s, 't', '', 'invalid_json', '')",
            [old],
        )
        forgotten.commit()
        forgotten.execute("SELECT count(*) FROM meter_readings_history")
        ingestor = start_wattline("ingest", DATABASE_URL=migrated_url, MQTT_URL=broker.url, RETENTION_DAYS="30")
        ingestor.wait_ready()
        name = "wattline_chore_last_success_timestamp_seconds"
        for chore in ("partitions", "quarantine", "hourly", "intervals", "gauges"):
            wait_until(lambda chore=chore: metric(ingestor, name, chore=chore) > 0, what=chore)
        assert rows("SELECT FROM rejected_messages") == []
        wait_until(
            lambda: f"retention: waits for the session with pid {forgotten.info.backend_pid}" in ingestor.output()
        )
        assert "application 'psql', user postgres, idle in transaction" in ingestor.output()
        assert metric(ingestor, name, chore="retention") == 0
        wait_until_blocked(migrated_url, "wattline retention")
        forgotten.rollback()
        wait_until(lambda: metric(ingestor, name, chore="retention") > 0, what="retention")
    gone = partition_name("meter_readings_history", old.date())
    assert rows(f"SELECT to_regclass('{gone}')") == [(None,)]
    assert metric(ingestor, "wattline_chore_failures_total") == 0


def test_an_exception_in_the_last_flush_is_seen(
    migrated_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails_at_the_end(self: Writer) -> None:
        while await self.backlog.next() is not None:
            pass
        raise ZeroDivisionError("in the last flush")

    async def story() -> bool:
        ingestor = Ingestor(load_settings(database_url=migrated_url, mqtt_url=broker.url, metrics_port=0))
        running = asyncio.create_task(ingestor.run())
        await wait_until_async(ingestor.is_connected, what="the link")
        ingestor.stop()
        return await running

    monkeypatch.setattr(Writer, "run", fails_at_the_end)
    assert asyncio.run(story()) is False
    assert "flush: ended by a fault of wattline" in caplog.text
    assert "in the last flush" in caplog.text
