"""Databases and poolers that cannot serve us, told at the connect in one line with what to do.

A session has settings, a role, locks and prepared statements. A pooler in transaction mode gives each transaction
another session, so all of these would be lost, or belong to somebody else.
"""

from __future__ import annotations

import secrets
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection, ConnectionInfo
from psycopg.rows import TupleRow

NEEDED_ENCODING = "UTF8"
# In an idle pool the backend that was free last is the next one to be given away, so one look tells; a pool that takes
# turns, or that others keep busy, may need more.
POOLER_LOOKS = 5

# What a backend did last shows under its pid; a random word tells ours from all others.
_MINE = "SELECT pg_catalog.pg_backend_pid() /* {word} */"
# True where the backend `pid` is this one, has gone, or has worked for somebody else since. Where the server does not
# track what its backends do, only the first two can be seen.
_WORKS_FOR_OTHERS: LiteralString = """
    SELECT pg_catalog.pg_backend_pid() = %(pid)s OR NOT EXISTS (
        SELECT FROM pg_catalog.pg_stat_activity
        WHERE pid = %(pid)s AND (state = 'disabled' OR (state = 'idle' AND query = %(mine)s))
    )"""


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
    mine = _MINE.format(word=secrets.token_hex(8))
    pid = await _pid(connection, mine)
    async with await AsyncConnection.connect(conninfo, autocommit=True) as other:
        for _ in range(POOLER_LOOKS):
            cursor = await other.execute(_WORKS_FOR_OTHERS, {"pid": pid, "mine": mine}, prepare=False)
            if await cursor.fetchone() != (False,) or await _pid(connection, mine) != pid:
                raise UnfitError(
                    "a pooler gives each transaction another session (PgBouncer calls it transaction or statement "
                    "mode), and settings, roles, locks and prepared statements do not survive that; let it use "
                    "pool_mode = session for this user or database, or connect to PostgreSQL directly"
                )


async def _pid(connection: AsyncConnection[TupleRow], statement: str) -> int:
    row = await (await connection.execute(statement.encode(), prepare=False)).fetchone()
    return int(row[0]) if row else 0
