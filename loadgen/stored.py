"""What the tables hold of a run, for the verifier: read row by row, so that memory does not grow with it.

It reads as a person with psql would, with no trust in primary keys; it never writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, LiteralString, NamedTuple, TypeAlias

import psycopg
from psycopg import IsolationLevel

from loadgen.fleet import id_prefix
from postgres.connecting import connect_blocking
from telemetry.kinds import BY_NAME, KINDS, SqlByKind
from telemetry.readings import EPOCH

Reader: TypeAlias = psycopg.Connection[tuple[Any, ...]]


# Timestamps come as microseconds: cheaper to read than datetimes, and exact, since extract gives a numeric.
HISTORY = SqlByKind("""
    COPY (SELECT {id}::text, (extract(epoch FROM ts) * 1000000)::bigint, {as_floats}
            FROM {history}
           WHERE ts BETWEEN %(first)s AND %(last)s AND starts_with({id}, %(prefix)s))
    TO STDOUT (FORMAT binary)""")

# Each device's newest reading, whatever its timestamp.
STATUS = SqlByKind("""
    COPY (SELECT {id}::text, (extract(epoch FROM last_reading) * 1000000)::bigint, {as_floats}
            FROM {status} WHERE starts_with({id}, %(prefix)s))
    TO STDOUT (FORMAT binary)""")

COUNT = SqlByKind("""
    SELECT count(*) FROM {history}
     WHERE ts BETWEEN %(first)s AND %(last)s AND starts_with({id}, %(prefix)s)""")

MISSING_TABLES: LiteralString = """
    SELECT string_agg(name, ', ') FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NULL"""


TABLES: Final = [table for kind in KINDS for table in (kind.history, kind.status)]


class StoredReading(NamedTuple):
    """A row of a history or status table."""

    device_id: str
    ts_us: int
    """Microseconds since 1970."""
    values: tuple[float, ...]


@dataclass(frozen=True)
class Tables:
    """Where the tables are; only `label` may be shown."""

    conninfo: str = field(repr=False)
    label: str


@dataclass(frozen=True)
class Scope:
    """Whose rows: ids that begin like the fleet's, timestamps (microseconds) of the run, both ends included."""

    prefix: str
    first_us: int
    last_us: int

    def parameters(self, kind: str) -> dict[str, object]:
        return {
            "prefix": id_prefix(kind, self.prefix),
            "first": EPOCH + timedelta(microseconds=self.first_us),
            "last": EPOCH + timedelta(microseconds=self.last_us),
        }


def connect(conninfo: str) -> Reader:
    """A connection whose transactions each see one snapshot. Raises psycopg.OperationalError."""
    connection = connect_blocking(conninfo, application_name="wattline-loadgen")
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection


def missing_tables(connection: Reader) -> str | None:
    """The names of the tables that should be there and are not."""
    row = connection.execute(MISSING_TABLES, [TABLES]).fetchone()
    return None if row is None else row[0]


def count_history(connection: Reader, kind: str, scope: Scope) -> int:
    """How many rows the history holds."""
    row = connection.execute(COUNT[kind], scope.parameters(kind)).fetchone()
    return 0 if row is None else int(row[0])


def history(connection: Reader, kind: str, scope: Scope) -> Iterator[StoredReading]:
    """The rows of the history, in no order. About 3 µs a row."""
    return _rows(connection, HISTORY[kind], kind, scope)


def status(connection: Reader, kind: str, scope: Scope) -> Iterator[StoredReading]:
    """The rows of the status table, whatever their timestamps."""
    return _rows(connection, STATUS[kind], kind, scope)


def why_unreadable(tables: Tables, error: psycopg.Error) -> str:
    """What to tell a person whose database does not answer; one line, no secret."""
    why = (str(error).splitlines() or [type(error).__name__])[0].strip()
    return f"cannot read the database at {tables.label} ({why}); is it running? Check DATABASE_URL and DATABASE_..."


def _rows(connection: Reader, query: bytes, kind: str, scope: Scope) -> Iterator[StoredReading]:
    with connection.cursor() as cursor, cursor.copy(query, scope.parameters(kind)) as copy:
        copy.set_types(("text", "int8", *("float8" for _ in BY_NAME[kind].measures)))
        for device_id, ts_us, *values in copy.rows():
            yield StoredReading(device_id, ts_us, tuple(values))
