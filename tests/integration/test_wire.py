"""Our binary formats against PostgreSQL's own: the same rows, written by both, are the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestor import wire
from tests.backends import Database

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
US = timedelta(microseconds=1)

ids = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=100)
moments_us = st.integers(-62_135_000_000_000_000, 253_402_000_000_000_000)  # the years 1 to 9999
# Infinities, NaN and both zeros too: what may be sent is not this module's business. PostgreSQL has one NaN, not many.
numbers = st.floats(allow_nan=False) | st.just(math.nan)
rows_of = {count: st.lists(st.tuples(ids, moments_us, *[numbers] * count), min_size=1) for count in (2, 3)}
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def connection(postgres_server: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        yield connection


def numbered(count: int) -> str:
    return ", ".join(f"n{place}" for place in range(count))


def written_by_postgres(connection: psycopg.Connection[Any], rows: Sequence[tuple[Any, ...]]) -> bytes:
    """PostgreSQL's COPY of the rows, which it was given as ordinary parameters."""
    count = len(rows[0]) - 2
    with connection.transaction(force_rollback=True):
        columns = ", ".join(f"n{place} float8" for place in range(count))
        connection.execute(f"CREATE TEMPORARY TABLE rows (place int, id text, ts timestamptz, {columns})".encode())
        connection.cursor().executemany(
            f"INSERT INTO rows VALUES (%s, %s, %s{', %s::float8' * count})".encode(),
            [(place, id_, EPOCH + us * US, *values) for place, (id_, us, *values) in enumerate(rows)],
        )
        query = f"COPY (SELECT id, ts, {numbered(count)} FROM rows ORDER BY place) TO STDOUT (FORMAT binary)".encode()
        with connection.cursor().copy(query) as copy:
            return b"".join(bytes(data) for data in copy)


@pytest.mark.parametrize("count", rows_of)
def test_the_copy_stream_is_what_postgres_writes(connection: psycopg.Connection[Any], count: int) -> None:
    @quick
    @given(rows_of[count])
    @example([("M", 0, *[0.0] * count), ("M", 946_684_800_000_000, *[-0.0] * count)])
    def check(rows: list[tuple[Any, ...]]) -> None:
        assert b"".join(wire.copy_stream(rows)) == written_by_postgres(connection, rows)

    check()


def test_more_rows_than_a_chunk_holds_are_one_stream(connection: psycopg.Connection[Any]) -> None:
    rows = [(f"METER-{number:05}", number, number / 7, -1.5) for number in range(wire.ROWS_PER_CHUNK + 3)]
    assert len(list(wire.copy_stream(rows))) == 4
    assert b"".join(wire.copy_stream(rows)) == written_by_postgres(connection, rows)


@quick
@given(rows_of[3])
@example([("ü", -1, 0.1, -0.0, float("nan"))])
def test_the_arrays_are_what_postgres_sends(connection: psycopg.Connection[Any], rows: list[tuple[Any, ...]]) -> None:
    texts, stamps, *numbers = zip(*rows, strict=True)
    row = connection.execute(
        "SELECT array_send(%s::text[]), array_send(%s::timestamptz[]), array_send(%s::float8[])",
        (list(texts), [EPOCH + us * US for us in stamps], list(numbers[0])),
    ).fetchone()
    ours = wire.columns(rows)
    assert row is not None
    assert [bytes(column) for column in ours[:3]] == list(row)
    assert [bytes(column) for column in ours[3:]] == [wire.float8_array(column) for column in numbers[1:]]
