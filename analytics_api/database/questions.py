"""What the routes ask of PostgreSQL: a row, some rows, more rows than memory should hold, a write.

Any number of tasks may ask at a time. Every answer, also "the database is away", comes in time (`pool`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import LiteralString, Self, TypeAlias, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from analytics_api.database.connection import Connection
from analytics_api.database.long_answers import LongAnswers
from analytics_api.database.pool import Pool

T = TypeVar("T")
Query: TypeAlias = LiteralString | bytes
"""A statement; bytes where it was rendered for a kind of reading (`Kind.sql`)."""

_STATEMENT_TIMEOUT = "SELECT set_config('statement_timeout', %s, true)"


class Database:
    """The database, to be asked; open it with `async with`."""

    def __init__(self, conninfo: str, label: str) -> None:
        """`conninfo` may hold a password and is never shown; `label` is its name in the log."""
        self._pool = Pool(conninfo, label)
        self._long_answers = LongAnswers(self._pool)

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.__aexit__()

    async def row(self, query: Query, parameters: Mapping[str, object]) -> TupleRow | None:
        """The only row that a reading query answers, or None. Raises UnavailableError, within ANSWER_SECONDS_MAX."""
        rows = await self.rows(query, parameters)
        return rows[0] if rows else None

    async def rows(self, query: Query, parameters: Mapping[str, object]) -> list[TupleRow]:
        """All rows that a reading query answers; the caller bounds their number. Raises as `row` does."""
        return await self._pool.used(lambda connection: _fetched_all(connection, query, parameters))

    async def rows_in_time(self, query: Query, parameters: Mapping[str, object], seconds_max: float) -> list[TupleRow]:
        """The rows of a query that nobody waits for, so that it may take `seconds_max`."""

        async def ask(connection: Connection) -> list[TupleRow]:
            async with connection.transaction():
                await connection.execute(_STATEMENT_TIMEOUT, [f"{seconds_max * 1000:.0f}ms"])
                return await _fetched_all(connection, query, parameters)

        return await self._pool.used(ask, seconds_max)

    async def write(self, work: Callable[[AsyncConnection[TupleRow]], Awaitable[T]]) -> T:
        """The result of `work`, one transaction. It may run more than once (a dead connection is replaced), and an
        ApiError that it raises undoes it and is passed on. Raises UnavailableError otherwise.
        """

        async def in_transaction(connection: Connection) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self._pool.used(in_transaction)

    def stream(
        self, query: bytes, parameters: Mapping[str, object]
    ) -> AbstractAsyncContextManager[AsyncIterator[list[TupleRow]]]:
        """All rows that a reading query answers, some thousand at a time, however many (`LongAnswers.rows`)."""
        return self._long_answers.rows(query, parameters)

    @property
    def away_because(self) -> str | None:
        """Why the latest connection failed, in words that anybody may read; None while connections succeed."""
        return self._pool.away_because

    def pool_stats(self) -> Mapping[str, int]:
        """psycopg_pool's figures: `pool_size`, `pool_available`, `requests_waiting` and more."""
        return self._pool.stats()


async def _fetched_all(connection: Connection, query: Query, parameters: Mapping[str, object]) -> list[TupleRow]:
    # Binary is quicker to read, and doubles come exactly as they are.
    cursor = await connection.cursor(binary=True).execute(query, parameters)
    return await cursor.fetchall()
