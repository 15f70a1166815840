"""Forget: devices that are gone have no status any more, so nobody counts, lists or misses them.

Their history stays, and a reading that they send after all brings them back.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ledger.stretch import LOCK_TIMEOUT_MS
from postgres.locks import AdvisoryLock, lock_in_transaction
from telemetry.kinds import Kind, SqlByKind

# Devices by name, or by what their names begin with (null: none). Who forgot is kept, so that a restore of annulled
# readings does not bring back the status of a device that was forgotten since.
FORGET = SqlByKind("""
    WITH gone AS (
        DELETE FROM {status} WHERE {id} = ANY(%(devices)s::text[]) OR starts_with({id}, %(prefix)s::text) RETURNING {id}
    ), noted AS (
        INSERT INTO forgotten_devices (kind, device_id, who) SELECT '{kind}', {id}, %(who)s FROM gone
        ON CONFLICT (kind, device_id) DO UPDATE SET forgotten_at = excluded.forgotten_at, who = excluded.who
    )
    SELECT {id} FROM gone ORDER BY {id}""")


async def forget(
    connection: AsyncConnection[TupleRow], kind: Kind, devices: Sequence[str], prefix: str | None, *, who: str
) -> list[str]:
    """The devices that had a status and have none now; all of a transaction.

    No flush is under way meanwhile, so neither can wait for a row of the other. Raises psycopg.errors.LockNotAvailable
    where one does not end within LOCK_TIMEOUT_MS.
    """
    await lock_in_transaction(connection, AdvisoryLock.ANNULMENTS, LOCK_TIMEOUT_MS)
    parameters = {"devices": list(devices), "prefix": prefix, "who": who}
    return [row[0] for row in await (await connection.execute(FORGET[kind.name], parameters)).fetchall()]
