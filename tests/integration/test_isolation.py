"""Rows that are refused, for any reason, are quarantined alone; what every row meets is nobody's fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import psycopg
import pytest

from ingestor.batch import Batch, Refusal, Row
from ingestor.rejected.bound import ByteBound
from ingestor.schema.migrate import migrate
from ingestor.sink import FlushTimeoutError, Outcome, Sink
from postgres.connecting import connect
from postgres.failures import failure_kind
from telemetry.readings import ReasonCode

# Ahead, so that the hour does not end between here and the test: what is past is written down device by device.
NOW_US = int(time.time() + 900) * 1_000_000
DAY_US = 86_400_000_000
LATE_US = 7_200_000_000
ATTEMPTS = 4

Sql = Callable[..., list[Any]]


@pytest.fixture
def url(database_url: str) -> str:
    async def prepare() -> None:
        async with await connect(database_url, autocommit=True) as connection:
            await migrate(connection)

    asyncio.run(prepare())
    return database_url


@pytest.fixture
def sql(url: str) -> Iterator[Sql]:
    with psycopg.connect(url, autocommit=True) as connection:

        def execute(query: str, *parameters: Any) -> list[Any]:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

        yield execute


def rows(count: int = 20, evil: int = 3) -> list[Row]:
    """`evil` of them of the device EVIL, the others of a device each."""
    good: list[Row] = [(f"GOOD-{number:02}", NOW_US + number, 1.0, 230.0) for number in range(count - evil)]
    return [*good, *(("EVIL", NOW_US + number, 1.0, 230.0) for number in range(evil))]


def batch_of(meters: list[Row]) -> Batch:
    return Batch(rows={"meter": meters}, received=len(meters), received_at=time.time())


def stored(url: str, batch: Batch, attempts: int = ATTEMPTS, **options: Any) -> Outcome:
    """The batch as the writer would store it, without its pauses."""

    async def store() -> Outcome:
        sink = Sink(url, **options)
        try:
            for _ in range(attempts - 1):
                try:
                    return await sink.store(batch)
                except Exception:  # noqa: BLE001 - tried again
                    pass
            return await sink.store(batch)
        finally:
            await sink.close()

    return asyncio.run(store())


def trigger(table: str, body: str, when: str = "BEFORE INSERT", kind: str = "TRIGGER", late: str = "") -> str:
    return (
        f"CREATE FUNCTION owners() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN IF NEW.meter_id = 'EVIL' THEN {body}; END IF; RETURN NEW; END $$;"
        f"CREATE {kind} owners {when} ON {table} {late} FOR EACH ROW EXECUTE FUNCTION owners()"
    )


HISTORY, STATUS = "meter_readings_history", "meter_status"
DEFERRED = {"when": "AFTER INSERT", "kind": "CONSTRAINT TRIGGER", "late": "DEFERRABLE INITIALLY DEFERRED"}
OWNERS = {
    **{
        f"RAISE {state} on {table}": trigger(table, f"RAISE EXCEPTION 'no evil' USING ERRCODE = '{state}'")
        for table, state in (
            (HISTORY, "P0001"),
            (HISTORY, "40001"),
            (HISTORY, "57014"),
            (HISTORY, "55P03"),
            (HISTORY, "25006"),
            (HISTORY, "08006"),
            (STATUS, "42501"),
            (STATUS, "XX000"),
        )
    },
    "a bug": trigger(HISTORY, "PERFORM no_such_function()"),
    "a missing table": trigger(STATUS, "PERFORM FROM no_such_table"),
    "a division": trigger(HISTORY, "PERFORM 1 / 0"),
    "at COMMIT": trigger(HISTORY, "RAISE EXCEPTION 'late' USING ERRCODE = '40P01'", **DEFERRED),
    "at COMMIT, a bug": trigger(HISTORY, "PERFORM no_such_function()", **DEFERRED),
    "left out without a word": trigger(HISTORY, "RETURN NULL"),
    "a check": "ALTER TABLE meter_status ADD CHECK (meter_id <> 'EVIL')",
}


@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
def test_one_device_that_its_owner_refuses_is_quarantined_alone(url: str, sql: Sql, owners: str) -> None:
    sql(owners)
    outcome = stored(url, batch_of(rows()))
    assert (outcome.committed["meter"], outcome.duplicate["meter"], len(outcome.refused)) == (17, 0, 3)
    assert sql("SELECT count(*), count(*) FILTER (WHERE meter_id = 'EVIL') FROM meter_readings_history") == [(17, 0)]
    assert sql("SELECT count(*) FROM meter_status") == [(17,)]
    assert sql("SELECT DISTINCT topic, reason_code FROM rejected_messages") == [
        ("v1/telemetry/meter/EVIL", "database_refused")
    ]
    assert sql("SELECT count(*) FROM rejected_messages") == [(3,)]


@pytest.mark.parametrize(
    "spoil", ["ALTER TABLE meter_status RENAME TO away", "ALTER TABLE meter_status DROP COLUMN voltage"]
)
def test_what_every_row_meets_is_nobodys_fault(url: str, sql: Sql, spoil: str) -> None:
    sql(spoil)
    with pytest.raises(psycopg.Error) as caught:
        stored(url, batch_of(rows()))
    assert failure_kind(caught.value) == "fault"
    assert sql("SELECT count(*) FROM rejected_messages") == [(0,)]
    assert sql("SELECT count(*) FROM meter_readings_history") == [(0,)]


ODD: dict[str, Any] = {
    "no number": ("EVIL", NOW_US, None, 230.0),
    "a text": ("EVIL", NOW_US, "1", 230.0),
    "too short": ("EVIL", NOW_US, 1.0),
    "half of a pair of surrogates": ("\ud800", NOW_US, 1.0, 230.0),
    "a NUL": ("E\0VIL", NOW_US, 1.0, 230.0),
    "a time beyond all days": ("EVIL", 10**30, 1.0, 230.0),
    "no time": ("EVIL", None, 1.0, 230.0),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("alone", [False, True], ids=["among others", "alone"])
@pytest.mark.parametrize("late_us", [0, LATE_US], ids=["of now", "late"])
def test_what_cannot_even_be_sent_is_quarantined_alone(url: str, sql: Sql, odd: Any, alone: bool, late_us: int) -> None:
    """Late rows are named in the invalidations of their hours, which is one more place to trip over."""
    good = [] if alone else [(row[0], row[1] - late_us, *row[2:]) for row in rows(evil=0)]
    if odd[1] == NOW_US:
        odd = (odd[0], NOW_US - late_us, *odd[2:])
    outcome = stored(url, batch_of([*good, odd]))
    assert (outcome.committed["meter"] + outcome.duplicate["meter"], len(outcome.refused)) == (len(good), 1)
    assert sql("SELECT count(*) FROM meter_readings_history") == [(len(good),)]
    assert sql("SELECT count(*) FROM rejected_messages WHERE reason_code = 'database_refused'") == [(1,)]


def test_a_day_without_a_place_costs_no_other_day_anything(url: str, sql: Sql) -> None:
    late = NOW_US - 9 * DAY_US
    day = time.strftime("%Y%m%d", time.gmtime(late / 1e6))
    sql(f"CREATE TABLE meter_readings_history_p{day} (somebody_elses int)")
    outcome = stored(url, batch_of([*rows(evil=0), ("LATE", late, 1.0, 230.0)]))
    assert (outcome.committed["meter"], len(outcome.refused)) == (20, 1)
    assert sql("SELECT topic FROM rejected_messages") == [("v1/telemetry/meter/LATE",)]


def test_an_attempt_that_was_committed_after_all_is_met_as_repeated(url: str, sql: Sql) -> None:
    """Its refusals too: they are kept once."""
    sql(OWNERS["a check"])
    batch = batch_of(rows())
    first = stored(url, batch)
    batch.may_be_stored = True
    again = stored(url, batch)
    assert (first.committed["meter"], again.committed["meter"], again.duplicate["meter"]) == (17, 0, 17)
    assert len(again.refused) == 3
    assert sql("SELECT count(*) FROM rejected_messages") == [(3,)]


def test_what_was_refused_again_after_a_replay_is_seen(url: str, sql: Sql) -> None:
    sql(OWNERS["a check"])
    stored(url, batch_of(rows()))
    sql("UPDATE rejected_messages SET replayed_at = now()")
    replayed = batch_of(rows())
    replayed.redelivered = replayed.may_be_stored = True
    stored(url, replayed)
    assert sql("SELECT count(*) FROM rejected_messages WHERE replayed_at IS NULL") == [(3,)]


def test_a_statement_without_an_answer_is_given_up(url: str, sql: Sql) -> None:
    """And its session is ended by the next one, so that nothing waits for its locks."""
    sql(trigger(HISTORY, "PERFORM pg_sleep(60)"))

    async def store() -> Outcome:
        sink = Sink(url, timeout_seconds=0.5)
        try:
            with pytest.raises(FlushTimeoutError, match="no answer to a batch for"):
                await sink.store(batch_of(rows()))
            again = batch_of(rows(evil=0))
            again.may_be_stored, again.timeouts = True, 4
            return await sink.store(again)
        finally:
            await sink.close()

    began = time.monotonic()
    assert asyncio.run(store()).committed["meter"] == 20
    assert time.monotonic() - began < 30
    assert sql("SELECT FROM pg_stat_activity WHERE application_name = 'wattline ingest' AND state = 'active'") == []


def test_the_quarantine_is_bounded_in_bytes(url: str, sql: Sql) -> None:
    bound = ByteBound(1_000_000)
    deleted = 0
    for number in range(10):
        batch = batch_of(rows(evil=0))
        batch.rejected = [
            Refusal(f"t/{number}/{index}", bytes(40_000), cast(ReasonCode, code), "why", time.time())
            for index, code in enumerate(("clock_skew", *["invalid_json"] * 9))
        ]
        deleted += stored(url, batch, bound=bound).kept.deleted
        assert sql("SELECT sum(octet_length(payload)) <= 1000000 FROM rejected_messages") == [(True,)]
    kept = [topic for (topic,) in sql("SELECT topic FROM rejected_messages WHERE reason_code = 'invalid_json'")]
    assert {f"t/9/{index}" for index in range(1, 10)} <= set(kept), "the newest nonsense stays"
    assert sql("SELECT count(*) FROM rejected_messages WHERE reason_code = 'clock_skew'") == [(10,)]
    assert deleted == 100 - len(kept) - 10
