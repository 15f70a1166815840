"""Daily partitions of the history tables: made ahead and on demand, dropped when their retention is over.

A day is a UTC day, whatever the session's time zone. Nothing here may take a lock on a history table that an open
flush or query conflicts with, so partitions are made alone and attached, and detached concurrently before they are
dropped. Every step may be repeated, interrupted at any point, and run by several processes at once.
Whoever stores readings may make partitions; only the owner of the tables may drop them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import TupleRow, class_row
from psycopg.sql import SQL, Identifier, Literal

from postgres.locks import AdvisoryLock, lock_in_transaction, try_lock, wait_in_transaction
from postgres.spread import is_spread
from telemetry.kinds import KINDS

logger = logging.getLogger(__name__)

HISTORIES = tuple(kind.history for kind in KINDS)
# Yesterday for late readings around midnight; three days, so that a process that hangs over a weekend is no drama.
DAYS_BEHIND, DAYS_AHEAD = 1, 3
# A late batch waits for its partition while the broker's window fills: give up early, the next attempt comes soon.
CREATE_LOCK_TIMEOUT_MS = 5_000
# Waiting to detach holds nobody up; queries of hours (a dump) are waited for again at the next run.
DETACH_LOCK_TIMEOUT_MS = 60_000
DROP_LOCK_TIMEOUT_MS = 1_000

_EXPIRED_MARK = "wattline: past its retention, being dropped"

# Runs as the tables' owner, so that whoever stores readings needs no right to make tables (0008, docs/adr/0007).
_MAKE: LiteralString = "SELECT make_day_partition(%s::regclass, %s)"
_OWNS: LiteralString = """
    SELECT bool_and(pg_has_role(relowner, 'USAGE')) FROM pg_class WHERE oid = ANY(%s::regclass[])"""
_DETACH = SQL("ALTER TABLE {history} DETACH PARTITION {partition} CONCURRENTLY")
# The same where Citus spreads the table, which knows no CONCURRENTLY: everybody waits for it meanwhile.
_DETACH_SPREAD = SQL("ALTER TABLE {history} DETACH PARTITION {partition}")
_FINALIZE = SQL("ALTER TABLE {history} DETACH PARTITION {partition} FINALIZE")
_MARK = SQL("COMMENT ON TABLE {partition} IS {mark}")
_DROP = SQL("DROP TABLE {partition}")

# The tables named like days of a history: its partitions and those that have no parent (any more).
_TABLES = """
    SELECT c.relname AS name,
           coalesce(NOT i.inhdetachpending, false) AS attached,
           coalesce(i.inhdetachpending, false) AS detach_pending,
           coalesce(obj_description(c.oid, 'pg_class') = %(mark)s, false) AS marked
    FROM pg_class h
    JOIN pg_class c ON c.relnamespace = h.relnamespace AND c.relkind = 'r' AND starts_with(c.relname, h.relname)
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    WHERE h.oid = %(history)s::regclass AND coalesce(i.inhparent = h.oid, true)
    ORDER BY c.relname"""


class NoPartitionError(Exception):
    """A day's table cannot be made; the message is one line for a person, who has to do something about it."""


@dataclass(frozen=True)
class _Table:
    """A table that holds, or held, one day of a history."""

    name: str
    attached: bool
    detach_pending: bool
    marked: bool


def days_ahead(now: datetime) -> list[date]:
    """The days that should have partitions at `now` (with a time zone): yesterday to three days ahead."""
    today = now.astimezone(UTC).date()
    return [today + timedelta(days=offset) for offset in range(-DAYS_BEHIND, DAYS_AHEAD + 1)]


def partition_name(history: str, day: date) -> str:
    """`meter_readings_history_p20260131`."""
    return f"{history}_p{day:%Y%m%d}"


def oldest_day_kept(keep_days: int, now: datetime) -> date:
    """The first day of which something is `keep_days` old or younger: all before it ended longer ago."""
    return (now.astimezone(UTC) - timedelta(days=keep_days)).date()


async def ensure_partitions(connection: AsyncConnection[TupleRow], days: Iterable[date]) -> list[str]:
    """Make the missing partitions of `days` in every history; return the names of those made.

    The connection must be outside a transaction. A table of that name that was detached is attached again, with its
    rows. Raises psycopg.errors.LockNotAvailable after CREATE_LOCK_TIMEOUT_MS; a later attempt is welcome. Raises
    NoPartitionError.
    """
    wanted = sorted(set(days))
    async with connection.transaction():
        if not any([await _missing(connection, history, wanted) for history in HISTORIES]):
            return []
    made = []
    async with connection.transaction():
        await lock_in_transaction(connection, AdvisoryLock.PARTITIONS, CREATE_LOCK_TIMEOUT_MS)
        for history in HISTORIES:
            for day in await _missing(connection, history, wanted):
                await _make(connection, history, day)
                made.append(partition_name(history, day))
    return made


async def may_drop(connection: AsyncConnection[TupleRow]) -> bool:
    """Whether our user owns the histories, so that it may drop their days."""
    cursor = await connection.execute(_OWNS, [list(HISTORIES)])
    return await cursor.fetchone() == (True,)


async def drop_expired(connection: AsyncConnection[TupleRow], oldest_kept: date) -> list[str]:
    """Drop the days before `oldest_kept`; return the names of the tables dropped.

    The connection must be in autocommit mode. While another process is at it, this
    one does nothing. Raises psycopg.errors.LockNotAvailable where a query held a history for longer than
    DETACH_LOCK_TIMEOUT_MS, or a detached day for longer than DROP_LOCK_TIMEOUT_MS; what is left then, or after a kill,
    the next run finishes.
    """
    if not await try_lock(connection, AdvisoryLock.RETENTION):
        return []
    dropped = []
    before = await (await connection.execute("SELECT current_setting('lock_timeout')")).fetchone()
    try:
        await connection.execute("SELECT set_config('lock_timeout', %s, false)", [f"{DETACH_LOCK_TIMEOUT_MS}ms"])
        for history in HISTORIES:
            await _finish_detaching(connection, history, oldest_kept)
            for table in await _expired(connection, history, oldest_kept):
                await _detach(connection, history, table)
                if await _drop_detached(connection, history, table.name):
                    dropped.append(table.name)
    finally:
        if not connection.broken:
            await connection.execute("SELECT set_config('lock_timeout', %s, false)", before)
            await connection.execute("SELECT pg_advisory_unlock(%s)", [int(AdvisoryLock.RETENTION)])
    return dropped


async def day_tables(connection: AsyncConnection[TupleRow]) -> list[tuple[date, str]]:
    """The tables that retention may drop once their day is past: partitions, and days that it has begun to drop."""
    found = []
    for history in HISTORIES:
        for table in await _expired(connection, history, date.max):
            digits = table.name[-len("20260131") :]
            with suppress(ValueError):  # somebody's table of the 32nd of a month
                found.append((date(int(digits[:4]), int(digits[4:6]), int(digits[6:])), table.name))
    return found


async def _tables(connection: AsyncConnection[TupleRow], history: str) -> list[_Table]:
    async with connection.cursor(row_factory=class_row(_Table)) as cursor:
        await cursor.execute(_TABLES, {"history": history, "mark": _EXPIRED_MARK})
        return await cursor.fetchall()


async def _missing(connection: AsyncConnection[TupleRow], history: str, days: list[date]) -> list[date]:
    """The days without an attached partition."""
    attached = {table.name for table in await _tables(connection, history) if table.attached}
    return [day for day in days if partition_name(history, day) not in attached]


async def _make(connection: AsyncConnection[TupleRow], history: str, day: date) -> None:
    cursor = await connection.execute(_MAKE, [history, day])
    if await cursor.fetchone() != (True,):
        raise NoPartitionError(
            f"{partition_name(history, day)} cannot be made: a table of that name is there and belongs to somebody "
            f"else, or {history} has another owner than the function make_day_partition"
        )


async def _expired(connection: AsyncConnection[TupleRow], history: str, oldest_kept: date) -> list[_Table]:
    """The partitions before `oldest_kept`, and what an interrupted run has detached but not dropped.

    A detached table without our mark is somebody's archive: it is left alone.
    """
    name = re.compile(re.escape(history) + r"_p(\d{8})")
    return [
        table
        for table in await _tables(connection, history)
        if (match := name.fullmatch(table.name))
        and match[1] < f"{oldest_kept:%Y%m%d}"
        and (table.attached or table.detach_pending or table.marked)
    ]


async def _finish_detaching(connection: AsyncConnection[TupleRow], history: str, oldest_kept: date) -> None:
    """Finish what somebody began with another table of the history: it lets nobody detach a second one meanwhile.

    A day past its retention is left to `_detach`, which marks it first.
    """
    expired = {table.name for table in await _expired(connection, history, oldest_kept)}
    for table in await _tables(connection, history):
        if table.detach_pending and table.name not in expired:
            await connection.execute(_FINALIZE.format(history=Identifier(history), partition=Identifier(table.name)))
            logger.warning("%s: finished the interrupted DETACH PARTITION ... CONCURRENTLY of %s", history, table.name)


async def _detach(connection: AsyncConnection[TupleRow], history: str, table: _Table) -> None:
    """Mark the table as ours to drop, then take it out of its history, unless an earlier run has."""
    names = {"history": Identifier(history), "partition": Identifier(table.name)}
    if not table.marked:
        await connection.execute(_MARK.format(mark=Literal(_EXPIRED_MARK), **names))
    if table.attached and await is_spread(connection, history):
        async with connection.transaction():
            await wait_in_transaction(connection, DROP_LOCK_TIMEOUT_MS)
            await connection.execute(_DETACH_SPREAD.format(**names))
    elif table.attached:
        await connection.execute(_DETACH.format(**names))
    elif table.detach_pending:
        await connection.execute(_FINALIZE.format(**names))


async def _drop_detached(connection: AsyncConnection[TupleRow], history: str, name: str) -> bool:
    """Drop the table, unless a late reading has made `ensure_partitions` attach it again: then it waits for next time.

    Dropping an attached partition would lock its whole history.
    """
    async with connection.transaction():
        await lock_in_transaction(connection, AdvisoryLock.PARTITIONS, CREATE_LOCK_TIMEOUT_MS)
        # Somebody may still read the table; a flush that needs another day's must not wait for them at our lock.
        await wait_in_transaction(connection, DROP_LOCK_TIMEOUT_MS)
        detached = any(
            table.name == name and table.marked and not table.attached and not table.detach_pending
            for table in await _tables(connection, history)
        )
        if detached:
            await connection.execute(_DROP.format(partition=Identifier(name)))
    return detached
