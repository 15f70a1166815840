"""The advisory locks of the database: which work only one process does at a time.

Every key stands here, so that two of them can never be the same number. Nothing that a flush waits for may hold one
of them while it waits for a flush.
"""

from __future__ import annotations

from enum import IntEnum
from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Literal


class AdvisoryLock(IntEnum):
    """Keys of `pg_advisory_lock`: "watt" and a number, to stay clear of other programs in the same database."""

    MIGRATIONS = 0x77617474_00000001
    PARTITIONS = 0x77617474_00000002
    RETENTION = 0x77617474_00000003
    HOURLY_SUMS = 0x77617474_00000004
    QUARANTINE = 0x77617474_00000005
    ANNULMENTS = 0x77617474_00000006
    """Shared by flushes, so that none is under way while readings are annulled or restored."""
    USUAL_INTERVALS = 0x77617474_00000007


async def lock_in_transaction(connection: AsyncConnection[TupleRow], lock: AdvisoryLock, timeout_ms: int) -> None:
    """Take `lock` until the running transaction ends; wait `timeout_ms` at most for it and for each later lock.

    Raises psycopg.errors.LockNotAvailable when the time is up.
    """
    await wait_in_transaction(connection, timeout_ms)
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", [int(lock)])


async def try_lock_in_transaction(connection: AsyncConnection[TupleRow], lock: AdvisoryLock) -> bool:
    """Take `lock` until the running transaction ends; False while another session has it."""
    return await _is_true(connection, "SELECT pg_try_advisory_xact_lock(%s)", lock)


async def try_lock(connection: AsyncConnection[TupleRow], lock: AdvisoryLock) -> bool:
    """Take `lock` until the session ends; False while another session has it."""
    return await _is_true(connection, "SELECT pg_try_advisory_lock(%s)", lock)


async def wait_in_transaction(connection: AsyncConnection[TupleRow], timeout_ms: int) -> None:
    """Wait `timeout_ms` at most for each lock until the running transaction ends.

    SET LOCAL, as a statement of its own, is what a Citus coordinator hands on to its workers; set_config is not.
    """
    await connection.execute(SQL("SET LOCAL lock_timeout TO {}").format(Literal(f"{timeout_ms}ms")))


async def share_in_transaction(connection: AsyncConnection[TupleRow], lock: AdvisoryLock) -> None:
    """Share `lock` with others who share it until the running transaction ends.

    Raises psycopg.errors.LockNotAvailable when the session's own time is up.
    """
    await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", [int(lock)])


async def _is_true(connection: AsyncConnection[TupleRow], query: LiteralString, lock: AdvisoryLock) -> bool:
    return await (await connection.execute(query, [int(lock)])).fetchone() == (True,)
