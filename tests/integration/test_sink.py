"""The sink against a model: whatever the batches repeat, each reading is stored once, and the first one stored wins."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestor.batch import Batch
from ingestor.schema.migrate import migrate
from ingestor.sink import Sink
from postgres.connecting import connect

DAY_US = 86_400_000_000
TODAY_US = int(time.time()) * 1_000_000

numbers = st.floats(0, 1e6)
moments = st.integers(0, 3).map(lambda day: TODAY_US - day * DAY_US) | st.integers(TODAY_US - 5, TODAY_US)
meters = st.tuples(st.sampled_from(["a", "b", "C"]), moments, numbers, numbers)
vehicles = st.tuples(st.sampled_from(["a", "b", "C"]), moments, numbers, numbers, numbers)
rows_by_kind = st.fixed_dictionaries({"meter": st.lists(meters, max_size=8), "vehicle": st.lists(vehicles, max_size=8)})
batches = st.builds(Batch, rows=rows_by_kind, may_be_stored=st.booleans())


@pytest.fixture(scope="module")
def migrated_url(postgres_server):
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
def test_batches_of_any_kind_are_stored_as_a_model_says(migrated_url, sequence):
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        connection.execute("TRUNCATE meter_readings_history, vehicle_readings_history, meter_status, vehicle_status")

        async def store():
            sink = Sink(migrated_url)
            outcomes = [await sink.store(batch) for batch in sequence]
            await sink.close()
            return outcomes

        outcomes = asyncio.run(store())
        for kind, columns in (
            ("meter", "kwh_consumed_ac, voltage"),
            ("vehicle", "soc, kwh_delivered_dc, battery_temp"),
        ):
            first = {}
            for batch, outcome in zip(sequence, outcomes, strict=True):
                rows = batch.rows[kind]
                before = len(first)
                for row in rows:
                    first.setdefault(row[:2], row)
                assert outcome.committed[kind] == len(first) - before
                assert outcome.duplicate[kind] == len(rows) - outcome.committed[kind]
            stored = connection.execute(
                f"SELECT {kind}_id, (extract(epoch FROM ts) * 1000000)::bigint, {columns} FROM {kind}_readings_history"
            ).fetchall()
            assert sorted(stored) == sorted(first.values())
            status = connection.execute(
                f"SELECT {kind}_id, (extract(epoch FROM last_reading) * 1000000)::bigint, {columns} FROM {kind}_status"
            ).fetchall()
            newest = {device: max(row for row in first.values() if row[0] == device) for device, _ in first}
            assert sorted(status) == sorted(newest.values())
