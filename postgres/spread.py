"""Whether a database is spread over a Citus cluster: statements are the same there, but not all that is around them."""

from __future__ import annotations

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from postgres.connecting import Session

_IS_SPREAD = "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition WHERE logicalrelid = to_regclass(%s))"


def has_citus(connection: AsyncConnection[TupleRow]) -> bool:
    """Whether this database has the extension."""
    return isinstance(connection, Session) and connection.has_workers


async def is_spread(connection: AsyncConnection[TupleRow], table: str) -> bool:
    """Whether Citus keeps the rows of `table`."""
    if not has_citus(connection):
        return False
    return await (await connection.execute(_IS_SPREAD, [table])).fetchone() == (True,)
