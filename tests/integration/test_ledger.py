"""Annulled readings are out of every answer and come back to the bit, whatever is written meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from ingestor.batch import Batch, Row
from ingestor.schema.migrate import migrate
from ingestor.schema.partitions import days_ahead, ensure_partitions, partition_name
from ingestor.sink import Outcome, Sink
from ledger import annul as annulling
from ledger.annul import Annulled, annul
from ledger.forget import forget
from ledger.restore import Restored, restore
from ledger.stretch import LedgerError, NothingThereError, Stretch
from postgres.connecting import connect
from telemetry.kinds import METER, VEHICLE, Kind

pytestmark = pytest.mark.citus_too

Connection = AsyncConnection[tuple[Any, ...]]
NOW_US = int(time.time()) // 3600 * 3_600_000_000
HOUR_US = 3_600_000_000

EVERYTHING = {
    "meters": "SELECT meter_id, ts, kwh_consumed_ac, voltage, ingested_at FROM meter_readings_history ORDER BY 1, 2",
    "vehicles": "SELECT vehicle_id, ts, soc, kwh_delivered_dc, battery_temp, ingested_at FROM vehicle_readings_history "
    "ORDER BY 1, 2",
    "meter_status": "SELECT * FROM meter_status ORDER BY 1",
    "vehicle_status": "SELECT * FROM vehicle_status ORDER BY 1",
}


async def prepared(url: str) -> Connection:
    connection = await connect(url, autocommit=True)
    await migrate(connection)
    await ensure_partitions(connection, days_ahead(datetime.now(UTC)))
    return connection


async def everything(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {name: await (await connection.execute(query.encode())).fetchall() for name, query in EVERYTHING.items()}


def stretch(device_id: str, start_us: int, end_us: int, kind: Kind = METER) -> Stretch:
    epoch = datetime.fromtimestamp(0, UTC)
    return Stretch(kind, device_id, epoch + timedelta(microseconds=start_us), epoch + timedelta(microseconds=end_us))


async def annulled(connection: Connection, of: Stretch) -> Annulled:
    async with connection.transaction():
        return await annul(connection, of, reason="a counter's reset", who="a test")


async def restored(connection: Connection, annulment_id: int) -> Restored:
    async with connection.transaction():
        return await restore(connection, annulment_id, who="a test")


async def stored(sink: Sink, rows: Sequence[Row], kind: str = "meter", *, again: bool = False) -> Outcome:
    batch = Batch(rows={each: list(rows) if each == kind else [] for each in ("meter", "vehicle")})
    batch.may_be_stored = again
    return await sink.store(batch)


def meter(number: int, kwh: float, device_id: str = "M") -> Row:
    """A reading of some seconds before the running hour."""
    return device_id, NOW_US - number * 1_000_000, kwh, 230.0


def test_a_reading_leaves_every_table_and_comes_back_to_the_bit(database_url: str) -> None:
    async def story() -> None:
        connection, sink = await prepared(database_url), Sink(database_url)
        async with connection:
            rows: list[Row] = [("V", NOW_US - number * HOUR_US, 50.0, 0.1 + number, -0.0) for number in range(5)]
            await stored(sink, rows, "vehicle")
            await stored(sink, [meter(1, 1.0)])
            before = await everything(connection)
            done = await annulled(connection, stretch("V", NOW_US - HOUR_US, NOW_US + 1, VEHICLE))
            assert (done.readings, done.hours, done.status_changed) == (2, 2, True)
            assert done.kwh == pytest.approx(1.2)
            after = await everything(connection)
            assert after["vehicles"] == before["vehicles"][:3]
            assert after["vehicle_status"][0][1:4] == (50.0, 2.1, 0.0)
            assert after["meters"] == before["meters"]
            back = await restored(connection, done.annulment_id)
            assert (back.readings, back.hours, back.status_changed, back.left) == (2, 2, True, 0)
            assert back.kwh == done.kwh
            assert repr(await everything(connection)) == repr(before)  # -0.0 is not 0.0
            with pytest.raises(LedgerError, match="nothing to restore"):
                await restored(connection, done.annulment_id)
        await sink.close()

    asyncio.run(story())


def test_a_device_without_any_reading_left_has_no_status_until_they_come_back(database_url: str) -> None:
    async def story() -> None:
        connection, sink = await prepared(database_url), Sink(database_url)
        async with connection:
            await stored(sink, [meter(2, 1.0), meter(1, 2.0)])
            await connection.execute("UPDATE meter_status SET usual_interval_seconds = 1")
            before = await everything(connection)
            older = await annulled(connection, stretch("M", NOW_US - 2_000_000, NOW_US - 1_000_000))
            assert not older.status_changed
            newer = await annulled(connection, stretch("M", NOW_US - 1_000_000, NOW_US))
            assert newer.status_changed
            assert (await everything(connection))["meter_status"] == []
            first = await restored(connection, older.annulment_id)
            assert first.status_changed
            assert (await restored(connection, newer.annulment_id)).status_changed
            assert await everything(connection) == before
        await sink.close()

    asyncio.run(story())


def test_delivered_again_it_stays_out_and_a_corrected_one_is_stored(database_url: str) -> None:
    async def story() -> None:
        connection, sink = await prepared(database_url), Sink(database_url)
        async with connection:
            wrong, right, other = meter(1, 98_765.0), meter(1, 0.5), meter(2, 0.25)
            await stored(sink, [wrong, other])
            done = await annulled(connection, stretch("M", wrong[1], wrong[1] + 1))
            for again in (False, True):
                outcome = await stored(sink, [wrong, other], again=again)
                assert (outcome.committed["meter"], outcome.duplicate["meter"]) == (0, 2)
            outcome = await stored(sink, [wrong, right, meter(3, 0.125)])
            assert (outcome.committed["meter"], outcome.duplicate["meter"]) == (2, 1)
            outcome = await stored(sink, [wrong])
            assert (outcome.committed["meter"], outcome.duplicate["meter"]) == (0, 1)
            back = await restored(connection, done.annulment_id)
            assert (back.readings, back.left) == (0, 1)
            kwh = [row[2] for row in (await everything(connection))["meters"]]
            assert kwh == [0.125, 0.25, 0.5]
            # Annulled as well, the corrected one makes room for the first one again.
            await annulled(connection, stretch("M", wrong[1], wrong[1] + 1))
            assert (await stored(sink, [right, wrong])).duplicate["meter"] == 2
            assert (await restored(connection, done.annulment_id)).readings == 1
            assert (await everything(connection))["meter_status"][0][1] == 98_765.0
        await sink.close()

    asyncio.run(story())


def test_what_cannot_be_done_changes_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        connection, sink = await prepared(database_url), Sink(database_url)
        async with connection:
            await stored(sink, [meter(1, 1.0), meter(2, 1.0)])
            before = await everything(connection)
            with pytest.raises(NothingThereError, match="no reading"):
                await annulled(connection, stretch("M", NOW_US, NOW_US + HOUR_US))
            with pytest.raises(NothingThereError, match="no annulment 77"):
                await restored(connection, 77)
            monkeypatch.setattr(annulling, "READINGS_MAX", 1)
            with pytest.raises(LedgerError, match="in parts"):
                await annulled(connection, stretch("M", 0, NOW_US))
            assert await everything(connection) == before
            assert await (await connection.execute("SELECT FROM annulments")).fetchall() == []
        await sink.close()

    asyncio.run(story())


def test_who_was_forgotten_comes_back_by_a_new_reading_not_by_a_repetition(database_url: str) -> None:
    async def story() -> None:
        connection, sink = await prepared(database_url), Sink(database_url)
        async with connection:
            await stored(sink, [meter(3, 1.0), meter(2, 1.0), meter(2, 1.0, "OTHER")])
            async with connection.transaction():
                assert await forget(connection, METER, ["M"], None, who="a test") == ["M"]
            await stored(sink, [meter(3, 1.0), meter(2, 1.0), meter(1, 1.0, "OTHER")], again=True)
            assert [row[0] for row in (await everything(connection))["meter_status"]] == ["OTHER"]
            await stored(sink, [meter(4, 0.5)])
            assert [row[0] for row in (await everything(connection))["meter_status"]] == ["M", "OTHER"]
        await sink.close()

    asyncio.run(story())


def test_a_day_that_is_gone_takes_nothing_back(database_url: str) -> None:
    async def story() -> None:
        connection, sink = await prepared(database_url), Sink(database_url)
        async with connection:
            await stored(sink, [meter(1, 1.0)])
            done = await annulled(connection, stretch("M", 0, NOW_US))
            day = partition_name(METER.history, datetime.fromtimestamp(NOW_US // 1_000_000 - 1, UTC).date())
            await connection.execute(f"DROP TABLE {day}".encode())
            with pytest.raises(LedgerError, match="not part of the history any more"):
                await restored(connection, done.annulment_id)
            assert await (await connection.execute("SELECT count(*) FROM annulled_readings")).fetchone() == (1,)
        await sink.close()

    asyncio.run(story())
