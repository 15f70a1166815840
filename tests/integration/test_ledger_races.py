"""Annulling while flushes are under way: two sessions in every order, and all at random with a roller at work."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import psycopg
import pytest

from ingestor import hourly
from ingestor import sink as sinking
from ingestor.batch import Batch, Row
from ingestor.hourly import HOUR_US, roll
from ingestor.sink import Sink
from ledger import annul as annulling
from ledger import restore as restoring
from ledger.annul import annul
from ledger.restore import restore
from ledger.stretch import LedgerError
from postgres.connecting import connect
from tests.integration.test_hourly import WRONG
from tests.integration.test_ledger import NOW_US, Connection, annulled, meter, prepared, restored, stored, stretch
from tests.waiting import wait_until_async

WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = %s::oid"
DATABASE = "SELECT oid FROM pg_database WHERE datname = current_database()"

# Devices whose status is not their newest reading, none where there is none.
STATUS_IS_WRONG = """
    SELECT coalesce(newest.meter_id, status.meter_id), newest.ts, status.last_reading
    FROM (
        SELECT DISTINCT ON (meter_id) meter_id, ts, kwh_consumed_ac FROM meter_readings_history
        ORDER BY meter_id, ts DESC
    ) AS newest
    FULL JOIN meter_status AS status USING (meter_id)
    WHERE (newest.ts, newest.kwh_consumed_ac) IS DISTINCT FROM (status.last_reading, status.kwh_consumed_ac)"""
# Readings that are annulled and stored with the same values.
BOTH = """
    SELECT meter_id, ts FROM meter_readings_history JOIN annulled_readings USING (ts)
    WHERE kind = 'meter' AND device_id = meter_id AND numbers = ARRAY[kwh_consumed_ac, voltage]"""
IN_ALL = """
    SELECT (SELECT count(*) FROM meter_readings_history) + (SELECT count(*) FROM annulled_readings)"""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it takes a while until somebody is seen to wait."""
    for module in (annulling, restoring):
        monkeypatch.setattr(module, "LOCK_TIMEOUT_MS", 60_000)


async def fetch(connection: Connection, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query.encode(), parameters)).fetchall()


async def wait_for_a_waiter(connection: Connection) -> None:
    ((database,),) = await fetch(connection, DATABASE)

    async def waits() -> bool:
        return await fetch(connection, WAITING, database) == [(1,)]

    await wait_until_async(waits, what="a session that waits for the lock")


async def kwh_stored(connection: Connection) -> list[float]:
    return [kwh for (kwh,) in await fetch(connection, "SELECT kwh_consumed_ac FROM meter_readings_history ORDER BY 1")]


def told(url: str, story: Callable[[Connection, Sink, Connection], Coroutine[Any, Any, None]]) -> None:
    """Run a story of two sessions and somebody who looks on."""

    async def run() -> None:
        looking, sink, other = await prepared(url), Sink(url), await connect(url, autocommit=True)
        async with looking, other:
            await story(looking, sink, other)
        await sink.close()

    asyncio.run(run())


@asynccontextmanager
async def held_flush(sink: Sink, rows: list[Row]) -> AsyncIterator[asyncio.Task[Any]]:
    """A flush that has stored its rows and commits when the block ends."""
    stored_rows, go_on = asyncio.Event(), asyncio.Event()
    invalidate = hourly.invalidate

    async def and_wait(*arguments: Any) -> None:
        stored_rows.set()
        await go_on.wait()
        await invalidate(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sinking, "invalidate", and_wait)
        flush = asyncio.create_task(stored(sink, rows))
        await asyncio.wait([flush, asyncio.create_task(stored_rows.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert stored_rows.is_set()
    yield flush
    go_on.set()
    await flush


def test_a_flush_that_came_first_is_annulled(database_url: str) -> None:
    async def story(looking: Connection, sink: Sink, other: Connection) -> None:
        async with held_flush(sink, [meter(1, 1.0)]):
            late = asyncio.create_task(annulled(other, stretch("M", 0, NOW_US)))
            await wait_for_a_waiter(looking)
        assert (await late).readings == 1
        assert await kwh_stored(looking) == []

    told(database_url, story)


@pytest.mark.parametrize(("commits", "left"), [(True, []), (False, [1.0])])
def test_a_redelivery_waits_for_an_annulment(database_url: str, commits: bool, left: list[float]) -> None:
    async def story(looking: Connection, sink: Sink, other: Connection) -> None:
        await stored(sink, [meter(1, 1.0)])
        async with other.transaction(force_rollback=not commits):
            await annul(other, stretch("M", 0, NOW_US), reason="a test", who="a test")
            again = asyncio.create_task(stored(sink, [meter(1, 1.0)]))
            await wait_for_a_waiter(looking)
        assert (await again).duplicate["meter"] == 1
        assert await kwh_stored(looking) == left

    told(database_url, story)


def test_a_redelivery_waits_for_a_restore(database_url: str) -> None:
    async def story(looking: Connection, sink: Sink, other: Connection) -> None:
        await stored(sink, [meter(1, 1.0)])
        done = await annulled(other, stretch("M", 0, NOW_US))
        async with other.transaction():
            await restore(other, done.annulment_id, who="a test")
            again = asyncio.create_task(stored(sink, [meter(1, 1.0)]))
            await wait_for_a_waiter(looking)
        assert (await again).duplicate["meter"] == 1
        assert await kwh_stored(looking) == [1.0]

    told(database_url, story)


def test_a_restore_waits_for_a_correction(database_url: str) -> None:
    async def story(looking: Connection, sink: Sink, other: Connection) -> None:
        await stored(sink, [meter(1, 1.0)])
        done = await annulled(other, stretch("M", 0, NOW_US))
        async with held_flush(sink, [meter(1, 0.5)]):
            late = asyncio.create_task(restored(other, done.annulment_id))
            await wait_for_a_waiter(looking)
        assert ((await late).readings, (await late).left) == (0, 1)
        assert await kwh_stored(looking) == [0.5]

    told(database_url, story)


def test_a_flush_that_never_ends_is_not_waited_for_long(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annulling, "LOCK_TIMEOUT_MS", 100)

    async def story(looking: Connection, sink: Sink, other: Connection) -> None:
        async with held_flush(sink, [meter(1, 1.0)]):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await annulled(other, stretch("M", 0, NOW_US))
        assert await kwh_stored(looking) == [1.0]

    told(database_url, story)


class Work:
    """Two writers who repeat and correct themselves, one who annuls and restores, a roller, and somebody who looks."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.writing = True
        self.committed = self.annulled = self.restored = self.looks = 0
        self._values = itertools.count(1)

    def reading(self, rng: Random) -> Row:
        device_id, ts_us = f"M-{rng.randrange(3)}", NOW_US - rng.randrange(12) * HOUR_US // 4
        return device_id, ts_us, float(next(self._values)), 230.0

    async def write(self, seed: int) -> None:
        rng, sink, sent = Random(seed), Sink(self.url), list[Row]()
        for _ in range(40):
            new = [self.reading(rng) for _ in range(4)]
            rows = new + rng.sample(sent, min(len(sent), 6))
            sent += new
            batch = Batch(rows={"meter": rows, "vehicle": []}, may_be_stored=rng.random() < 0.5)
            outcome = await sink.store(batch)
            self.committed += outcome.committed["meter"]
        await sink.close()

    async def correct(self, connection: Connection) -> None:
        rng, taken = Random(7), list[int]()
        while self.writing:
            with suppress(LedgerError, psycopg.errors.LockNotAvailable):
                if taken and rng.random() < 0.5:
                    chosen = taken.pop(rng.randrange(len(taken)))
                    self.restored += (await restored(connection, chosen)).readings
                else:
                    device_id, start_us, *_ = self.reading(rng)
                    found = await annulled(connection, stretch(device_id, start_us, start_us + HOUR_US))
                    taken.append(found.annulment_id)
                    self.annulled += found.readings

    async def roll(self) -> None:
        async with await connect(self.url, autocommit=True) as connection:
            while self.writing:
                await roll(connection)

    async def look(self, connection: Connection) -> None:
        while self.writing:
            for query in (WRONG, STATUS_IS_WRONG, BOTH):
                assert await fetch(connection, query) == [], query
            self.looks += 1


def test_everything_is_right_at_every_moment(database_url: str) -> None:
    async def story(looking: Connection, _: Sink, other: Connection) -> None:
        work = Work(database_url)
        async with asyncio.TaskGroup() as group:
            for task in (work.correct(other), work.roll(), work.look(looking)):
                group.create_task(task)
            await asyncio.wait([group.create_task(work.write(seed)) for seed in range(2)])
            work.writing = False
        assert min(work.looks, work.annulled, work.restored) > 0
        assert await fetch(looking, IN_ALL) == [(work.committed,)]
        work.writing = True
        looks = work.looks
        look = asyncio.create_task(work.look(looking))
        await wait_until_async(lambda: work.looks > looks or look.done(), what="a last look")
        work.writing = False
        await look

    told(database_url, story)
