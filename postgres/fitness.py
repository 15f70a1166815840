"""Databases and poolers that cannot serve us, told at the connect in one line with what to do.

A session has settings, a role, locks and prepared statements. A pooler in transaction mode gives each transaction
another session, so all of these would be lost, or belong to somebody else.
"""

from __future__ import annotations

import psycopg
from psycopg import AsyncConnection, ConnectionInfo
from psycopg.rows import TupleRow

NEEDED_ENCODING = "UTF8"
# A busy pool may give us other backends by chance; it does so three times in a row only where it always does.
POOLER_LOOKS = 3

_PID = "SELECT pg_catalog.pg_backend_pid()"


class UnfitError(psycopg.OperationalError):
    """A database, or a pooler before it, that cannot serve us; the message is one line with what to do."""


def check_encoding(info: ConnectionInfo) -> None:
    """Raises UnfitError for a database that cannot hold every character."""
    encoding = info.parameter_status("server_encoding")
    if encoding != NEEDED_ENCODING:
        raise UnfitError(
            f"the database's encoding is {encoding}, and {NEEDED_ENCODING} is needed to hold whatever devices send; "
            f"make one with `createdb --template=template0 --encoding=UTF8 --locale=C NAME`, or the same by CREATE "
            "DATABASE, and move what is there with pg_dump"
        )


async def check_session_is_ours(connection: AsyncConnection[TupleRow], conninfo: str) -> None:
    """Raises UnfitError where a pooler shares sessions among its clients. `connection` is in autocommit mode."""
    mine = await _pid(connection)
    async with await AsyncConnection.connect(conninfo, autocommit=True) as other:
        for _ in range(POOLER_LOOKS):
            # The backend that was free last is the next one to be given away.
            if await _pid(other) == mine or await _pid(connection) != mine:
                raise UnfitError(
                    "a pooler gives each transaction another session (PgBouncer calls it transaction or statement "
                    "mode), and settings, roles, locks and prepared statements do not survive that; let it use "
                    "pool_mode = session for this user or database, or connect to PostgreSQL directly"
                )


async def _pid(connection: AsyncConnection[TupleRow]) -> int:
    row = await (await connection.execute(_PID, prepare=False)).fetchone()
    return int(row[0]) if row else 0
