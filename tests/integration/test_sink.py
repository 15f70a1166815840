"""The sink against a model: whatever the batches repeat, each reading is stored once, the first one stored wins, the
same again is a duplicate, and other values are a conflict.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestor.batch import Batch, Row
from ingestor.schema.migrate import migrate
from ingestor.sink import Outcome, Sink
from postgres.connecting import connect
from tests.backends import Database

DAY_US = 86_400_000_000
TODAY_US = int(time.time()) * 1_000_000

numbers = st.sampled_from([0.0, -0.0, 0.1, 0.1 + 2**-56]) | st.floats(0, 1e6)
moments = st.integers(0, 3).map(lambda day: TODAY_US - day * DAY_US) | st.integers(TODAY_US - 5, TODAY_US)
meters = st.tuples(st.sampled_from(["a", "b", "C"]), moments, numbers, numbers)
vehicles = st.tuples(st.sampled_from(["a", "b", "C"]), moments, numbers, numbers, numbers)
rows_by_kind = st.fixed_dictionaries({"meter": st.lists(meters, max_size=8), "vehicle": st.lists(vehicles, max_size=8)})
batches = st.builds(
    Batch, rows=rows_by_kind, may_be_stored=st.booleans(), received_at=st.floats(TODAY_US / 1e6 - 60, TODAY_US / 1e6)
)


@pytest.fixture(scope="module")
def migrated_url(postgres_server: Database) -> str:
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_sink TEMPLATE template0")
    url = postgres_server.url_of("test_sink")
    asyncio.run(_migrate(url))
    return url


async def _migrate(url: str) -> None:
    async with await connect(url, autocommit=True) as connection:
        await migrate(connection)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(batches, max_size=4))
def test_batches_of_any_kind_are_stored_as_a_model_says(migrated_url: str, sequence: list[Batch] | list[Any]) -> None:
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE meter_readings_history, vehicle_readings_history, meter_status, vehicle_status, rejected_messages"
        )

        async def store() -> Any:
            sink = Sink(migrated_url)
            outcomes = [await sink.store(batch) for batch in sequence]
            # As after an answer to COMMIT that was lost: nothing is stored or kept a second time.
            for batch, outcome in zip(sequence, outcomes, strict=True):
                batch.may_be_stored = True
                again = await sink.store(batch)
                assert sum(again.committed.values()) == 0
                assert len(again.refused) == len(outcome.refused)
            await sink.close()
            return outcomes

        outcomes = asyncio.run(store())
        conflicts = 0
        for kind, columns in (
            ("meter", "kwh_consumed_ac, voltage"),
            ("vehicle", "soc, kwh_delivered_dc, battery_temp"),
        ):
            first: dict[Any, Any] = {}
            for batch, outcome in zip(sequence, outcomes, strict=True):
                rows = batch.rows[kind]
                before = len(first)
                differing = sum(first.setdefault(row[:2], row) != row for row in rows)
                refused = [refusal for refusal in outcome.refused if refusal.topic.split("/")[2] == kind]
                assert [refusal.code for refusal in refused] == ["conflict"] * differing
                assert outcome.committed[kind] == len(first) - before
                assert outcome.duplicate[kind] == len(rows) - outcome.committed[kind] - differing
                conflicts += differing
            stored = connection.execute(
                f"SELECT {kind}_id, (extract(epoch FROM ts) * 1000000)::bigint, {columns} FROM {kind}_readings_history"
            ).fetchall()
            assert sorted(stored) == sorted(first.values())
            status = connection.execute(
                f"SELECT {kind}_id, (extract(epoch FROM last_reading) * 1000000)::bigint, {columns} FROM {kind}_status"
            ).fetchall()
            newest = {device: max(row for row in first.values() if row[0] == device) for device, _ in first}
            assert sorted(status) == sorted(newest.values())
        kept = connection.execute("SELECT count(*), count(DISTINCT (sha256, received_at)) FROM rejected_messages")
        rows_kept, different = kept.fetchone()
        assert different <= rows_kept <= conflicts


def outcome_of(url: str, batch: Batch) -> Outcome:
    async def store() -> Any:
        sink = Sink(url)
        outcome = await sink.store(batch)
        await sink.close()
        return outcome

    return asyncio.run(store())


def test_a_conflict_names_what_is_stored_and_what_came(migrated_url: str) -> None:
    first, other = ("NAMED", TODAY_US, 0.25, 230.0), ("NAMED", TODAY_US, 0.5, 230.0)
    outcome_of(migrated_url, Batch(rows={"meter": [first], "vehicle": []}, received_at=TODAY_US / 1e6))
    (refusal,) = outcome_of(
        migrated_url, Batch(rows={"meter": [first, other, first], "vehicle": []}, received_at=TODAY_US / 1e6)
    ).refused
    assert refusal.code == "conflict"
    assert refusal.reason.endswith("other values: kwhConsumedAc 0.25 is stored, 0.5 came")
    with psycopg.connect(migrated_url) as connection:
        kept = connection.execute("SELECT reason FROM rejected_messages WHERE topic LIKE '%/NAMED'").fetchall()
        stored = connection.execute("SELECT kwh_consumed_ac FROM meter_readings_history WHERE meter_id = 'NAMED'")
        assert (kept, stored.fetchall()) == ([(refusal.reason,)], [(0.25,)])


@pytest.mark.parametrize("may_be_stored", [False, True])
def test_a_late_reading_is_a_sign_of_life_and_a_duplicate_is_none(migrated_url: str, may_be_stored: bool) -> None:
    device = f"LATE-{may_be_stored}"
    newest, late = (device, TODAY_US, 1.0, 230.0), (device, TODAY_US - 60_000_000, 2.0, 231.0)

    def store(*rows: Any) -> None:
        meters = [*rows, (f"OTHER-{device}", TODAY_US, 1.0, 230.0)]
        outcome_of(migrated_url, Batch(rows={"meter": meters, "vehicle": []}, may_be_stored=may_be_stored))

    def status() -> Any:
        with psycopg.connect(migrated_url) as connection:
            query = "SELECT last_updated, last_reading, kwh_consumed_ac FROM meter_status WHERE meter_id = %s"
            return connection.execute(query, [device]).fetchone()

    store(newest)
    updated, reading, energy = status()
    store(late)
    later, *rest = status()
    assert later > updated
    assert rest == [reading, energy]
    store(late, newest)
    assert status() == (later, reading, energy)


@pytest.mark.parametrize("change", ["NEW.voltage := round(NEW.voltage)", "NEW.ts := date_trunc('second', NEW.ts)"])
def test_what_a_trigger_of_the_owners_changes_keeps_the_books_balanced(migrated_url: str, change: str) -> None:
    """A repetition beside it makes the merge look at what is stored, which is not what came."""
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE OR REPLACE FUNCTION changes() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF NEW.meter_id LIKE 'ODD%' THEN {change}; END IF; RETURN NEW; END $$"
        )
        connection.execute(
            "CREATE OR REPLACE TRIGGER changes BEFORE INSERT ON meter_readings_history "
            "FOR EACH ROW EXECUTE FUNCTION changes()"
        )
        number = TODAY_US + len(change)
        repeated = ("EVEN", number, 1.0, 230.0)
        try:
            outcome_of(migrated_url, Batch(rows={"meter": [repeated], "vehicle": []}))
            odd = [(f"ODD-{index}", number + index, 1.0, 230.4) for index in range(5)]
            outcome = outcome_of(migrated_url, Batch(rows={"meter": [repeated, *odd], "vehicle": []}))
        finally:
            connection.execute("DROP TRIGGER changes ON meter_readings_history")
    assert outcome.readings == 6
    assert (outcome.committed["meter"] + len(outcome.refused), outcome.duplicate["meter"]) == (5, 1)


def test_of_two_ingestors_at_once_one_stores_a_reading_and_the_other_has_a_conflict(migrated_url: str) -> None:
    count = 300

    def batch(energy: float) -> Batch:
        meters: list[Row] = [(f"RACE-{number:03}", TODAY_US, energy, 230.0) for number in range(count)]
        return Batch(rows={"meter": meters, "vehicle": []}, received_at=TODAY_US / 1e6)

    async def both() -> Any:
        sinks = [Sink(migrated_url), Sink(migrated_url)]
        outcomes = await asyncio.gather(*(sink.store(batch(energy)) for energy, sink in enumerate(sinks, 1)))
        for sink in sinks:
            await sink.close()
        return outcomes

    outcomes = asyncio.run(both())
    assert sum(outcome.committed["meter"] for outcome in outcomes) == count
    assert sum(len(outcome.refused) for outcome in outcomes) == count
    assert {refusal.code for outcome in outcomes for refusal in outcome.refused} == {"conflict"}


def test_what_waits_for_a_lock_is_compared_when_it_is_stored(migrated_url: str) -> None:
    """The first of a batch is stored, also where all of its device has to wait."""
    first, other = ("HELD", TODAY_US, 1.0, 230.0), ("HELD", TODAY_US, 2.0, 230.0)
    outcome_of(migrated_url, Batch(rows={"meter": [("HELD", TODAY_US - 1, 1.0, 230.0)], "vehicle": []}))
    batch = Batch(rows={"meter": [first, other, first], "vehicle": []}, received_at=TODAY_US / 1e6)
    batch.blocked = batch.may_be_stored = True
    with psycopg.connect(migrated_url) as connection:
        connection.execute("UPDATE meter_status SET last_updated = now() WHERE meter_id = 'HELD'")
        outcome = outcome_of(migrated_url, batch)
        assert (outcome.readings, len(outcome.later["meter"])) == (0, 3)
    outcome = outcome_of(migrated_url, batch.rest(outcome.later))
    assert (outcome.committed["meter"], outcome.duplicate["meter"], len(outcome.refused)) == (1, 1, 1)
    assert "1.0 is stored, 2.0 came" in outcome.refused[0].reason
