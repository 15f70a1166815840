"""Connections that are lent: a pool that outlives every outage, and a deadline that no use of a connection outlives.

Every answer, also "the database is away", comes within ANSWER_SECONDS_MAX; connections come back by themselves as soon
as somebody asks. A connection that turns out to be dead (the server was restarted) is replaced without a word.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Self, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from analytics_api.database.failures import AWAY, BUSY, Complaints, has_ended
from analytics_api.database.outage import Outage
from analytics_api.database.session import DEFAULTS, ApiSession
from analytics_api.http.errors import UnavailableError
from postgres.connecting import with_defaults
from postgres.deadline import Deadline
from postgres.roles import API_ROLE
from postgres.trouble import NO_ANSWER

# The promise is 3 s; what remains is for the way back.
ANSWER_SECONDS_MAX = 2.5
# While no connection can be made, waiting longer for one only makes a queue.
AWAY_WAIT_SECONDS_MAX = 0.5
CONNECTIONS_MIN = 1
CONNECTIONS_MAX = 8
# Each waits at most ANSWER_SECONDS_MAX; beyond them a quick "not now" serves everybody better.
WAITING_MAX = 500
CLOSE_SECONDS_MAX = 3.0
# psycopg_pool tries again after 1 s, then twice as long each time. It gives up here, and the next request begins again:
# so an outage of an hour is over within a second, not within the minutes that its waiting had grown to.
RECONNECT_SECONDS = 2.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Pool:
    """Lends a connection to one task at a time; open it with `async with`."""

    def __init__(self, conninfo: str, label: str) -> None:
        """`conninfo` may hold a password and is never shown; `label` is its name in the log."""
        self._outage = Outage(label)
        self._complaints = Complaints()
        self._limited: bool | None = None
        self._pool = AsyncConnectionPool(
            with_defaults(conninfo, **DEFAULTS),
            connection_class=ApiSession,
            kwargs={"outage": self._outage},
            min_size=CONNECTIONS_MIN,
            max_size=CONNECTIONS_MAX,
            max_waiting=WAITING_MAX,
            reconnect_timeout=RECONNECT_SECONDS,
            open=False,
            name="api",
        )

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close(CLOSE_SECONDS_MAX)

    async def used(self, work: Callable[[ApiSession], Awaitable[T]], seconds_max: float = ANSWER_SECONDS_MAX) -> T:
        """What `work` finds out on a connection that lives. Raises UnavailableError, within `seconds_max`."""

        async def attempt(deadline: float) -> T:
            connection = await self._taken(deadline)
            try:
                with self.alarm(connection, deadline):
                    await self._prepared(connection)
                    return await work(connection)
            finally:
                await self._pool.putconn(connection)

        return await self._retried(attempt, seconds_max)

    async def kept(self, work: Callable[[ApiSession], Awaitable[object]]) -> ApiSession:
        """A connection on which `work` has begun a transaction; `released` takes it back. Raises as `used` does."""

        async def attempt(deadline: float) -> ApiSession:
            connection = await self._taken(deadline)
            try:
                with self.alarm(connection, deadline):
                    await self._prepared(connection)
                    await work(connection)
            except BaseException:
                await self.released(connection)
                raise
            return connection

        return await self._retried(attempt, ANSWER_SECONDS_MAX)

    async def released(self, connection: ApiSession) -> None:
        """Take back a connection that was kept, whatever its transaction has come to."""
        try:
            with (
                suppress(psycopg.Error),
                self.alarm(connection, asyncio.get_running_loop().time() + ANSWER_SECONDS_MAX),
            ):
                await connection.rollback()
        finally:
            await self._pool.putconn(connection)

    def alarm(self, connection: ApiSession, deadline: float) -> Deadline:
        """Hang up at `deadline` (the event loop's clock) on a server that says nothing at all.

        Cancelling the task would not do: psycopg then asks the server to cancel, and waits for it, up to 10 s.
        """
        return Deadline(deadline - asyncio.get_running_loop().time(), partial(self._cut, connection))

    def unavailable(self, error: psycopg.Error) -> UnavailableError:
        """What a client is told about an error."""
        return UnavailableError(AWAY) if has_ended(error) else self._complaints.refused(error)

    @property
    def away_because(self) -> str | None:
        """Why the latest connection failed, in words that anybody may read; None while connections succeed."""
        return self._outage.trouble

    def stats(self) -> Mapping[str, int]:
        """psycopg_pool's figures: `pool_size`, `pool_available`, `requests_waiting` and more."""
        return self._pool.get_stats()

    async def _retried(self, attempt: Callable[[float], Awaitable[T]], seconds_max: float) -> T:
        """What `attempt` makes of a connection until its deadline; made again where the connection was dead."""
        deadline = asyncio.get_running_loop().time() + seconds_max
        for _ in range(CONNECTIONS_MAX + 1):  # each may be dead once
            try:
                return await attempt(deadline)
            except TooManyRequests as error:
                raise UnavailableError(BUSY) from error
            except (PoolTimeout, PoolClosed) as error:
                raise UnavailableError(AWAY if self.away_because else BUSY) from error
            except psycopg.Error as error:
                if not has_ended(error):
                    raise self.unavailable(error) from error
        raise UnavailableError(AWAY)

    async def _taken(self, deadline: float) -> ApiSession:
        patience = deadline - asyncio.get_running_loop().time()
        if self.away_because:
            patience = min(patience, AWAY_WAIT_SECONDS_MAX)
        return await self._pool.getconn(timeout=patience)

    async def _prepared(self, connection: ApiSession) -> None:
        """With no more rights than the API needs; whether that can be is said when it changes."""
        limited = await connection.limit_rights()
        if limited == self._limited:
            return
        self._limited = limited
        if limited:
            logger.info("the API acts as the role %s", API_ROLE)
        else:
            logger.warning(
                "the API has all rights of its database user: there is no role %s here that it may become; "
                "`wattline migrate` makes it, or see Access in docs/operations.md",
                API_ROLE,
            )

    def _cut(self, connection: ApiSession) -> None:
        self._outage.begun(NO_ANSWER, f"no answer within {ANSWER_SECONDS_MAX:g} s")
        connection.hang_up()
