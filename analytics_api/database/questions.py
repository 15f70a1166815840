"""What the routes ask of PostgreSQL: a row, some rows, more rows than memory should hold, a write.

Any number of tasks may ask at a time. Every answer, also "the database is away", comes in time (`pool`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import LiteralString, Self, TypeAlias, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from analytics_api.database.long_answers import LongAnswers
from analytics_api.database.pool import Pool
from analytics_api.database.session import ApiSession

T = TypeVar("T")
Query: TypeAlias = LiteralString | bytes
"""A statement; bytes where it was rendered for a kind of reading (`Kind.sql`)."""

# One that takes so long reads many rows, so that what joins them is a hash or a merge, whatever the planner knows: of
# tables that were filled just now it knows nothing, and 100,000 devices joined by nested loops take minutes. They also
# fit into memory that way; where the owner gives more, it stays so.
FOR_MANY_ROWS = """
    SELECT set_config('statement_timeout', %s, true), set_config('enable_nestloop', 'off', true),
        set_config('jit', 'off', true),
        set_config('work_mem', greatest(pg_size_bytes(current_setting('work_mem')) / 1024, 32768) || 'kB', true)"""


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

    async def row(self, query: Query, parameters: Mapping[str, object], *, of_window: bool = False) -> TupleRow | None:
        """The only row that a reading query answers, or None. Raises UnavailableError, within ANSWER_SECONDS_MAX.

        A query `of_window` is planned for its own bounds each time. One plan for any bounds would have to lock every
        partition there is, and a few such questions at once have exhausted the server's lock table.
        """
        rows = await self.rows(query, parameters, of_window=of_window)
        return rows[0] if rows else None

    async def rows(self, query: Query, parameters: Mapping[str, object], *, of_window: bool = False) -> list[TupleRow]:
        """All rows that a reading query answers; the caller bounds their number. As `row` in all else."""
        return await self._pool.used(
            lambda connection: _fetched_all(connection, query, parameters, of_window=of_window)
        )

    async def rows_in_time(self, query: Query, parameters: Mapping[str, object], seconds_max: float) -> list[TupleRow]:
        """The rows of a query `of_window` that nobody waits for, so that it may take `seconds_max`."""

        async def ask(connection: ApiSession) -> list[TupleRow]:
            async with connection.transaction():
                await connection.execute(FOR_MANY_ROWS, [f"{seconds_max * 1000:.0f}ms"])
                return await _fetched_all(connection, query, parameters, of_window=True)

        return await self._pool.used(ask, seconds_max)

    async def write(self, work: Callable[[AsyncConnection[TupleRow]], Awaitable[T]]) -> T:
        """The result of `work`, one transaction. It may run more than once (a dead connection is replaced), and an
        ApiError that it raises undoes it and is passed on. Raises UnavailableError otherwise.
        """

        async def in_transaction(connection: ApiSession) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self._pool.used(in_transaction)

    def long_answer(
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


async def _fetched_all(
    connection: ApiSession, query: Query, parameters: Mapping[str, object], *, of_window: bool
) -> list[TupleRow]:
    # Binary is quicker to read, and doubles come exactly as they are. Only what is prepared can get a plan for any
    # bounds; None leaves that to psycopg, which prepares what is asked often.
    prepare = False if of_window else None
    cursor = await connection.cursor(binary=True).execute(query, parameters, prepare=prepare)
    return await cursor.fetchall()
