"""A host with a wrong clock: readings wait until it is right; none is refused by it, and nothing is deleted by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from config.settings import load_settings
from ingestor import clock_watch
from ingestor.schema.migrate import migrate
from ingestor.schema.partitions import ensure_partitions
from ingestor.service import Ingestor
from postgres.connecting import connect
from tests.backends import Broker
from tests.devices import Device, meter_reading
from tests.faketime import wrong_clock
from tests.faults.counting import assert_books_balance, assert_stored_once, rows_in_history
from tests.faults.load import publish_all
from tests.metrics import metric
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until, wait_until_async

HOUR = 3600
DAY = 24 * HOUR


def rows_in_quarantine(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM rejected_messages").fetchone()
    return row[0] if row else 0


def test_a_clock_that_is_set_while_it_runs(
    database_url: str,
    broker: Broker,
    publisher: Device,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the wrong clock refused is judged again by the right one; what a device's own clock did stays refused."""
    monkeypatch.setattr(clock_watch, "LOOK_IN_DOUBT_SECONDS", 0.05)
    offset = 0.0
    good = [("meter", meter_reading(f"M-{n}")) for n in range(50)]
    hasty = ("meter", meter_reading("HASTY", datetime.now(UTC) + timedelta(minutes=30)))

    async def story() -> None:
        nonlocal offset
        settings = load_settings(database_url=database_url, mqtt_url=broker.url, metrics_port=0, flush_interval_ms=50)
        ingestor = Ingestor(settings, now=lambda: time.time() + offset)
        running = asyncio.create_task(ingestor.run())
        await wait_until_async(ingestor.is_connected, what="the link")
        await asyncio.to_thread(publish_all, publisher, good[:10])
        await wait_until_async(lambda: ingestor.metrics.readings_committed() == 10, what="the first readings")

        offset = -float(HOUR)
        await asyncio.to_thread(publish_all, publisher, [*good[10:], hasty])
        await wait_until_async(lambda: bool(ingestor.problems()), what="the fault")
        await wait_until_async(lambda: ingestor.backlog.pending() > 0, what="what is held")
        (problem,) = ingestor.problems()
        assert "3600 s behind the database's" in problem
        assert "reading pauses" in problem
        assert ingestor.backlog.inflight() > 0, "nothing is acknowledged"
        assert rows_in_quarantine(database_url) == 0
        assert ingestor.metrics.readings_committed() == 10

        offset = 0.0
        await wait_until_async(lambda: ingestor.metrics.readings_committed() == len(good), what="all readings")
        await wait_until_async(lambda: ingestor.backlog.pending() == 0, what="the end")
        assert ingestor.problems() == []
        ingestor.stop()
        assert await running

    asyncio.run(story())
    assert_stored_once(database_url, good)
    assert rows_in_quarantine(database_url) == 1
    assert sum("3600 s behind" in record.message for record in caplog.records) == 1


def test_a_backlog_meets_a_clock_an_hour_behind(  # noqa: PLR0913, PLR0917 - fixtures
    database_url: str,
    publisher: Device,
    start_ingestor: Callable[..., WattlineProcess],
    start_wattline: Callable[..., WattlineProcess],
    broker: Broker,
    tmp_path: Path,
) -> None:
    clock = wrong_clock(tmp_path)
    before = start_ingestor()
    assert before.stop() == 0
    published = [("meter", meter_reading(f"M-{n}")) for n in range(3000)]
    publish_all(publisher, published)

    clock.set(-HOUR)
    ingestor = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url, **clock.environment)
    wait_until(lambda: "s behind the database's" in ingestor.output(), what="the line that says so")
    assert get_status(f"{ingestor.metrics_url}/readyz") == 503
    assert metric(ingestor, "wattline_clock_offset_seconds") == pytest.approx(-HOUR, abs=2)
    assert rows_in_history(database_url) == rows_in_quarantine(database_url) == 0

    clock.set(0)
    ingestor.wait_ready()
    assert_stored_once(database_url, published, timeout=30)
    assert assert_books_balance(ingestor) == len(published)
    assert rows_in_quarantine(database_url) == 0


def test_a_start_with_a_clock_400_days_ahead_drops_nothing(
    database_url: str, start_wattline: Callable[..., WattlineProcess], broker: Broker, tmp_path: Path
) -> None:
    clock = wrong_clock(tmp_path)
    yesterday = datetime.now(UTC) - timedelta(days=1)

    async def prepare() -> None:
        async with await connect(database_url, autocommit=True) as session:
            await migrate(session)
            await ensure_partitions(session, [yesterday.date()])
            await session.execute("INSERT INTO meter_readings_history VALUES ('M', %s, 1, 230)", [yesterday])

    asyncio.run(prepare())
    clock.set(400 * DAY)
    settings = {"DATABASE_URL": database_url, "MQTT_URL": broker.url, "RETENTION_DAYS": "30", **clock.environment}
    ingestor = start_wattline("ingest", **settings)
    wait_until(lambda: "s ahead of the database's" in ingestor.output(), what="the line that says so")
    assert get_status(f"{ingestor.metrics_url}/readyz") == 503
    by_hand = start_wattline("retention", "run", "--yes", **settings)
    assert by_hand.wait() == 1
    assert "s ahead of the database's" in by_hand.output()
    assert rows_in_history(database_url) == 1

    clock.set(90)  # no fault, and still no reason to delete
    ingestor.wait_ready()
    wait_until(lambda: "retention: the clocks disagree" in ingestor.output(), what="the chore that holds back")
    assert rows_in_history(database_url) == 1
    assert "Traceback" not in ingestor.output()
