"""Answers of any length, read through a cursor some thousand rows at a time; memory holds no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import LiteralString

import psycopg
from psycopg.rows import TupleRow

from analytics_api.database.pool import ANSWER_SECONDS_MAX, CONNECTIONS_MAX, Pool
from analytics_api.database.session import ApiSession
from analytics_api.http.errors import UnavailableError

# Each keeps a connection for as long as its reader takes; the other half is for those who ask and go.
LONG_ANSWERS_MAX = CONNECTIONS_MAX // 2

_TAKEN = f"{LONG_ANSWERS_MAX} long answers are on their way already; that is as many as there may be at once."
# The cursor and its fetches: 2,000 rows are 200 KB of CSV, and hold up the event loop for some 10 ms.
_DECLARE = b"DECLARE long_answer NO SCROLL CURSOR FOR "
_FETCH: LiteralString = "FETCH 2000 FROM long_answer"


class LongAnswers:
    """Those that are on their way."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._count = 0

    @asynccontextmanager
    async def rows(
        self, query: bytes, parameters: Mapping[str, object]
    ) -> AsyncIterator[AsyncIterator[list[TupleRow]]]:
        """All rows that a reading query answers, of one moment.

        Each fetch takes ANSWER_SECONDS_MAX at most; the caller bounds the time between them, for a connection is
        taken until the end of the `with`. Raises UnavailableError, also where LONG_ANSWERS_MAX are on already.
        """

        async def declare(connection: ApiSession) -> None:
            await connection.execute("BEGIN READ ONLY")
            await connection.execute(_DECLARE + query, parameters, prepare=False)

        if self._count >= LONG_ANSWERS_MAX:
            raise UnavailableError(_TAKEN)
        self._count += 1
        try:
            connection = await self._pool.kept(declare)
            try:
                yield self._fetched(connection)
            finally:
                await self._pool.released(connection)
        finally:
            self._count -= 1

    async def _fetched(self, connection: ApiSession) -> AsyncIterator[list[TupleRow]]:
        cursor = connection.cursor(binary=True)
        while True:
            try:
                with self._pool.alarm(connection, asyncio.get_running_loop().time() + ANSWER_SECONDS_MAX):
                    rows = await (await cursor.execute(_FETCH, prepare=False)).fetchall()
            except psycopg.Error as error:
                raise self._pool.unavailable(error) from error
            if not rows:
                return
            yield rows
