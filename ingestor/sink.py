"""A batch into PostgreSQL: one transaction that either holds all of it or nothing.

The fast path is COPY straight into the history inside a savepoint; a reading that is there already, or a broker that
says it delivers again, sends it the way of the merge. A value that PostgreSQL refuses is found by halving, and goes to
quarantine; its neighbours are stored. `store` is one attempt: it raises what went wrong and never retries.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor import statements, wire
from ingestor.batch import KEPT_PAYLOAD_BYTES_MAX, Batch, Rejection, Row, first_of_each, in_key_order, newest_per_device
from ingestor.hourly import invalidate, invalidations
from ingestor.schema.partitions import ensure_partitions
from ingestor.statements import Statements
from postgres.connecting import connect
from postgres.failures import failure_kind
from postgres.session import Limits
from telemetry.kinds import Kind
from telemetry.topics import topic_of

logger = logging.getLogger(__name__)

DAY_SECONDS = 86_400
EPOCH = date(1970, 1, 1)
# Nothing of ours holds a lock that a flush needs for longer than a moment: past it the log names somebody else's.
LIMITS = Limits(lock_ms=5_000)


@dataclass(slots=True)
class Outcome:
    """What became of a batch, in readings; rejected ones are in the batch's own refusals too."""

    committed: dict[str, int] = field(default_factory=lambda: {"meter": 0, "vehicle": 0})
    duplicate: dict[str, int] = field(default_factory=lambda: {"meter": 0, "vehicle": 0})
    refused: list[Rejection] = field(default_factory=list)
    """Readings that PostgreSQL would not take."""
    seconds: Counter[int] = field(default_factory=Counter)
    """Readings by the second (since 1970) of their timestamp."""


class Sink:
    """Writes batches, one at a time, over one connection that it opens when needed."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: AsyncConnection[TupleRow] | None = None
        self._days: set[int] = set()

    async def store(self, batch: Batch) -> Outcome:
        """Commit the batch. Raises what PostgreSQL or the network said; nothing of the batch is stored then, or,
        where the answer to COMMIT was lost, all of it: set `batch.may_be_stored` before the next attempt.
        """
        connection = await self._connected()
        outcome = Outcome(seconds=batch.per_second())
        try:
            await self._make_partitions(connection, outcome)
            async with connection.transaction():
                for table, rows in ((statements.METER, batch.meters), (statements.VEHICLE, batch.vehicles)):
                    if rows:
                        refused: list[Rejection] = []
                        stored = await _store_rows(connection, table, rows, refused, merge=batch.may_be_stored)
                        outcome.committed[table.kind.name] = stored
                        outcome.duplicate[table.kind.name] = len(rows) - stored - len(refused)
                        outcome.refused += refused
                await invalidate(connection, invalidations(batch, outcome.seconds, time.time()))
                await _quarantine(connection, [*batch.rejected, *outcome.refused], once=batch.may_be_stored)
        except BaseException as error:
            if isinstance(error, Exception) and failure_kind(error) == "partition":
                self._days.clear()
            if connection.broken or connection.closed or not isinstance(error, psycopg.Error):
                await self.close()
            raise
        return outcome

    async def close(self) -> None:
        """Close the connection; the next `store` opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connected(self) -> AsyncConnection[TupleRow]:
        if self._connection is None:
            connection = await connect(
                self._conninfo, autocommit=True, application_name="wattline ingest", limits=LIMITS
            )
            wire.register(connection)
            self._connection = connection
        return self._connection

    async def _make_partitions(self, connection: AsyncConnection[TupleRow], outcome: Outcome) -> None:
        days = {second // DAY_SECONDS for second in outcome.seconds} - self._days
        if days:
            await ensure_partitions(connection, [EPOCH + timedelta(days=day) for day in days])
            self._days |= days


async def _store_rows(
    connection: AsyncConnection[TupleRow],
    table: Statements,
    rows: Sequence[Row],
    refused: list[Rejection],
    *,
    merge: bool,
) -> int:
    """All readings of one kind, by the fast path if nothing speaks against it; the number newly stored."""
    if not merge:
        ordered = in_key_order(rows)
        try:
            async with connection.transaction():
                stored = await _copy(connection, table, ordered)
                await _update_status(connection, table, ordered)
                return stored
        except psycopg.Error as error:
            if failure_kind(error) != "data":
                raise
    return await _merge(connection, table, first_of_each(rows), refused)


async def _merge(
    connection: AsyncConnection[TupleRow], table: Statements, rows: Sequence[Row], refused: list[Rejection]
) -> int:
    """The slow path: leaves out what is there already, and halves until what PostgreSQL refuses is alone."""
    try:
        async with connection.transaction():
            stored = (await connection.execute(table.merge, wire.columns(rows))).rowcount
            await _update_status(connection, table, rows)
            return stored
    except psycopg.Error as error:
        if failure_kind(error) != "data":
            raise
        if len(rows) == 1:
            refused.append(_rejection(table, rows[0], error))
            return 0
    half = len(rows) // 2
    first = await _merge(connection, table, rows[:half], refused)
    return first + await _merge(connection, table, rows[half:], refused)


async def _copy(connection: AsyncConnection[TupleRow], table: Statements, rows: Sequence[Row]) -> int:
    async with connection.cursor() as cursor:
        async with cursor.copy(table.copy) as copy:
            for chunk in wire.copy_stream(rows):
                await copy.write(chunk)
        return cursor.rowcount


async def _update_status(connection: AsyncConnection[TupleRow], table: Statements, rows: Sequence[Row]) -> None:
    await connection.execute(table.newest, wire.columns(newest_per_device(rows)))


async def _quarantine(connection: AsyncConnection[TupleRow], rejections: Sequence[Rejection], *, once: bool) -> None:
    if not rejections:
        return
    await connection.execute(
        statements.QUARANTINE_ONCE if once else statements.QUARANTINE,
        (
            [datetime.fromtimestamp(rejection.received_at, UTC) for rejection in rejections],
            [rejection.topic.replace("\0", "\N{REPLACEMENT CHARACTER}") for rejection in rejections],
            [rejection.payload[:KEPT_PAYLOAD_BYTES_MAX] for rejection in rejections],
            [rejection.code for rejection in rejections],
            [rejection.reason for rejection in rejections],
        ),
    )


def _rejection(table: Statements, row: Row, error: psycopg.Error) -> Rejection:
    """The reading as its device would send it, with what PostgreSQL has against it."""
    device_id, timestamp_us, *numbers = row
    timestamp = (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=timestamp_us)).isoformat()
    payload = dict(zip(_fields(table.kind), (device_id, timestamp, *numbers), strict=True))
    return Rejection(
        topic=topic_of(table.kind.name, device_id),
        payload=json.dumps(payload).encode(),
        code="database_refused",
        reason=f"PostgreSQL refused it: {error.diag.message_primary} ({error.sqlstate})",
        received_at=time.time(),
    )


def _fields(kind: Kind) -> tuple[str, ...]:
    """The JSON names of a row's values."""
    return kind.id_field, "timestamp", *(measure.name for measure in kind.measures)
