"""Asking PostgreSQL: a pool that outlives every outage, and a deadline that no question outlives.

Every answer, also "the database is away", comes within ANSWER_SECONDS_MAX; connections come back by themselves as soon
as somebody asks. What PostgreSQL says goes to the log, never to a client. Every connection becomes the role API_ROLE,
which may read, and write the links only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, LiteralString, Self, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from analytics_api.http.errors import UnavailableError
from postgres.connecting import Session, with_defaults
from postgres.session import Limits
from postgres.trouble import NO_ANSWER, trouble_with
from telemetry.kinds import KINDS

# The promise is 3 s; what remains is for the way back.
ANSWER_SECONDS_MAX = 2.5
# A CSV answer waits for its reader inside a transaction, 30 s at most.
LIMITS = Limits(statement_ms=2000)
# While no connection can be made, waiting longer for one only makes a queue.
AWAY_WAIT_SECONDS_MAX = 0.5
CONNECT_TIMEOUT_SECONDS = 2  # libpq's least
CONNECTIONS_MIN = 1
CONNECTIONS_MAX = 8
# Each waits at most ANSWER_SECONDS_MAX; beyond them a quick "not now" serves everybody better.
WAITING_MAX = 500
CLOSE_SECONDS_MAX = 3.0
# Each keeps a connection for as long as its reader takes; the other half is for those who ask and go.
STREAMS_MAX = CONNECTIONS_MAX // 2
# psycopg_pool tries again after 1 s, then twice as long each time. It gives up here, and the next request begins anew:
# so an outage of an hour is over within a second, not within the minutes that its waiting had grown to.
RECONNECT_SECONDS = 2.0

COMPLAINT_SECONDS = 10.0  # between two log lines about queries that fail

_STATEMENT_TIMEOUT = "SELECT set_config('statement_timeout', %s, true)"
API_ROLE = "wattline_api"
# No row where there is no such role (yet), it has no rights here (yet), or we may not become it: from version 16 on
# a member may be forbidden to. It has its rights once it may read the newest readings of every kind.
_BECOME_API_ROLE: LiteralString = """
    SELECT set_config('role', rolname, false) FROM pg_roles
    WHERE rolname = %s AND pg_has_role(session_user, oid, %s)
      AND has_schema_privilege(oid, current_schema(), 'USAGE')
      AND (SELECT bool_and(coalesce(has_table_privilege(oid, to_regclass(name), 'SELECT'), false))
          FROM unnest(%s::text[]) AS name)"""
_STATUS_TABLES = [kind.status for kind in KINDS]
SERVER_KNOWS_SET = 160_000

# An idle connection whose server vanished without a word is noticed after 5 + 2 * 2 s.
_DEFAULTS: dict[str, str | int] = {
    "application_name": "wattline api",
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}

_AWAY = "The database is away."
_BUSY = "The database is too busy to answer in time."
_STREAMS_TAKEN = f"{STREAMS_MAX} long answers are on their way already; that is as many as there may be at once."
# The cursor and its fetches: 2,000 rows are 200 KB of CSV, and hold up the event loop for some 10 ms.
_DECLARE = b"DECLARE stream NO SCROLL CURSOR FOR "
_FETCH: LiteralString = "FETCH 2000 FROM stream"
_CONNECTION_ENDED = ("08", "57P")  # SQLSTATE: connection exceptions; shutdown, crash, start-up of the server
_SCHEMA_MISSING = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName)

log = logging.getLogger(__name__)

T = TypeVar("T")
Query: TypeAlias = LiteralString | bytes
"""A statement; bytes where it was rendered for a kind of reading (`Kind.sql`)."""


class Outage:
    """Says once in the log that the database is away, and once that it is back; `trouble` is None while it is there."""

    def __init__(self, label: str) -> None:
        self._label = label
        self.trouble: str | None = None
        """What anybody may read about it."""

    def begun(self, trouble: str, reason: str) -> None:
        """A connection could not be made, or gave no answer; `reason` is for the log."""
        if trouble != self.trouble:
            log.warning("PostgreSQL at %s does not serve us: %s; trying again", self._label, reason)
        self.trouble = trouble

    def ended(self) -> None:
        """A connection was made."""
        if self.trouble is not None:
            log.info("PostgreSQL at %s serves us again", self._label)
        self.trouble = None


class Connection(Session):
    """Reports how connecting went (the pool keeps the reason to itself), and gives up the rights it does not need."""

    _limited = False

    @classmethod
    async def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        outage: Outage,
        **settings: Any,  # noqa: ANN401 - psycopg's
    ) -> Self:
        try:
            connection = await super().connect(conninfo, autocommit=True, limits=LIMITS, **settings)
        except psycopg.Error as error:
            outage.begun(trouble_with(error), _line(error))
            raise
        outage.ended()
        return connection

    async def limit_rights(self) -> bool:
        """Become API_ROLE, if we have not. False where that cannot be: before the first migration there is no such
        role, and some users may not become it; the next question tries again.
        """
        if not self._limited:
            right = "SET" if self.info.server_version >= SERVER_KNOWS_SET else "MEMBER"
            self._limited = (await self.execute(_BECOME_API_ROLE, [API_ROLE, right, _STATUS_TABLES])).rowcount > 0
        return self._limited


class Database:
    """Answers one question at a time to any number of tasks; open it with `async with`."""

    def __init__(self, conninfo: str, label: str) -> None:
        """`conninfo` may hold a password and is never shown; `label` is its name in the log."""
        self._outage = Outage(label)
        self._quiet_until = 0.0
        self._limited: bool | None = None
        self._streams = 0
        self._pool = AsyncConnectionPool(
            with_defaults(conninfo, **_DEFAULTS),
            connection_class=Connection,
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

    async def row(self, query: Query, parameters: Mapping[str, object]) -> TupleRow | None:
        """The only row that a reading query answers, or None. Raises UnavailableError, within ANSWER_SECONDS_MAX."""
        rows = await self.rows(query, parameters)
        return rows[0] if rows else None

    async def rows(self, query: Query, parameters: Mapping[str, object]) -> list[TupleRow]:
        """All rows that a reading query answers; the caller bounds their number. Raises as `row` does."""
        return await self._asked(lambda connection: _fetched_all(connection, query, parameters))

    async def rows_in_time(self, query: Query, parameters: Mapping[str, object], seconds_max: float) -> list[TupleRow]:
        """The same for a query that nobody waits for, so that it may take `seconds_max`."""

        async def ask(connection: Connection) -> list[TupleRow]:
            async with connection.transaction():
                await connection.execute(_STATEMENT_TIMEOUT, [f"{seconds_max * 1000:.0f}ms"])
                return await _fetched_all(connection, query, parameters)

        return await self._asked(ask, seconds_max)

    async def write(self, work: Callable[[AsyncConnection[TupleRow]], Awaitable[T]]) -> T:
        """The result of `work`, one transaction. It may run more than once (a dead connection is replaced), and an
        ApiError that it raises undoes it and is passed on. Raises UnavailableError otherwise.
        """

        async def in_transaction(connection: Connection) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self._asked(in_transaction)

    @asynccontextmanager
    async def stream(
        self, query: bytes, parameters: Mapping[str, object]
    ) -> AsyncIterator[AsyncIterator[list[TupleRow]]]:
        """All rows that a reading query answers, of one moment, some thousand at a time; memory holds no more.

        Each fetch takes ANSWER_SECONDS_MAX at most; the caller bounds the time between them, for a connection is
        taken until the end of the `with`. Raises UnavailableError, also where STREAMS_MAX are on already.
        """
        if self._streams >= STREAMS_MAX:
            raise UnavailableError(_STREAMS_TAKEN)
        self._streams += 1
        try:
            connection = await self._retried(partial(self._declared, query, parameters))
            try:
                yield self._fetched(connection)
            finally:
                await self._released(connection)
        finally:
            self._streams -= 1

    async def _declared(self, query: bytes, parameters: Mapping[str, object], deadline: float) -> Connection:
        """A connection with the cursor open; `_released` ends it."""
        connection = await self._taken(deadline)
        try:
            with self._alarm(connection, deadline):
                self._note_rights(limited=await connection.limit_rights())
                await connection.execute("BEGIN READ ONLY")
                await connection.execute(_DECLARE + query, parameters, prepare=False)
        except BaseException:
            await self._released(connection)
            raise
        return connection

    async def _fetched(self, connection: Connection) -> AsyncIterator[list[TupleRow]]:
        cursor = connection.cursor(binary=True)
        while True:
            try:
                with self._alarm(connection, asyncio.get_running_loop().time() + ANSWER_SECONDS_MAX):
                    rows = await (await cursor.execute(_FETCH, prepare=False)).fetchall()
            except psycopg.Error as error:
                raise (UnavailableError(_AWAY) if _has_ended(error) else self._refused(error)) from error
            if not rows:
                return
            yield rows

    async def _released(self, connection: Connection) -> None:
        try:
            with (
                suppress(psycopg.Error),
                self._alarm(connection, asyncio.get_running_loop().time() + ANSWER_SECONDS_MAX),
            ):
                await connection.rollback()
        finally:
            await self._pool.putconn(connection)

    async def _asked(self, work: Callable[[Connection], Awaitable[T]], seconds_max: float = ANSWER_SECONDS_MAX) -> T:
        """What `work` finds out on a connection that lives."""
        return await self._retried(partial(self._asked_once, work), seconds_max)

    async def _retried(self, attempt: Callable[[float], Awaitable[T]], seconds_max: float = ANSWER_SECONDS_MAX) -> T:
        """What `attempt` makes of a connection until its deadline.

        A connection that turns out to be dead (the server was restarted) is replaced and the attempt made again.
        """
        deadline = asyncio.get_running_loop().time() + seconds_max
        for _ in range(CONNECTIONS_MAX + 1):  # each may be dead once
            try:
                return await attempt(deadline)
            except TooManyRequests as error:
                raise UnavailableError(_BUSY) from error
            except (PoolTimeout, PoolClosed) as error:
                raise UnavailableError(_AWAY if self.away_because else _BUSY) from error
            except psycopg.Error as error:
                if not _has_ended(error):
                    raise self._refused(error) from error
        raise UnavailableError(_AWAY)

    @property
    def away_because(self) -> str | None:
        """Why the latest connection failed, in words that anybody may read; None while connections succeed."""
        return self._outage.trouble

    def pool_stats(self) -> Mapping[str, int]:
        """psycopg_pool's figures: `pool_size`, `pool_available`, `requests_waiting` and more."""
        return self._pool.get_stats()

    async def _asked_once(self, work: Callable[[Connection], Awaitable[T]], deadline: float) -> T:
        connection = await self._taken(deadline)
        try:
            with self._alarm(connection, deadline):
                self._note_rights(limited=await connection.limit_rights())
                return await work(connection)
        finally:
            await self._pool.putconn(connection)

    async def _taken(self, deadline: float) -> Connection:
        patience = deadline - asyncio.get_running_loop().time()
        if self.away_because:
            patience = min(patience, AWAY_WAIT_SECONDS_MAX)
        return await self._pool.getconn(timeout=patience)

    @contextmanager
    def _alarm(self, connection: Connection, deadline: float) -> Iterator[None]:
        alarm = asyncio.get_running_loop().call_at(deadline, self._cut, connection)
        try:
            yield
        finally:
            alarm.cancel()

    def _note_rights(self, *, limited: bool) -> None:
        if limited == self._limited:
            return
        self._limited = limited
        if limited:
            log.info("the API acts as the role %s", API_ROLE)
        else:
            log.warning(
                "the API has all rights of its database user: there is no role %s here that it may become; "
                "`wattline migrate` makes it, or see Access in docs/operations.md",
                API_ROLE,
            )

    def _cut(self, connection: Connection) -> None:
        """End the wait for a server that says nothing at all.

        Cancelling the task would not: psycopg then asks the server to cancel, and waits for it, up to 10 s.
        """
        self._outage.begun(NO_ANSWER, f"no answer within {ANSWER_SECONDS_MAX:g} s")
        connection.hang_up()

    def _refused(self, error: psycopg.Error) -> UnavailableError:
        """PostgreSQL is there and says no: for the log what it says, for the client what it means."""
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + COMPLAINT_SECONDS
            log.error("a query failed with %s: %s", error.sqlstate, _line(error))
        if isinstance(error, psycopg.errors.QueryCanceled):
            return UnavailableError(_BUSY)
        if isinstance(error, _SCHEMA_MISSING):
            return UnavailableError("The database schema is not ready; `wattline migrate` makes it so.")
        return UnavailableError("The database could not answer; it has been logged.")


async def _fetched_all(connection: Connection, query: Query, parameters: Mapping[str, object]) -> list[TupleRow]:
    # Binary is quicker to read, and doubles come exactly as they are.
    cursor = await connection.cursor(binary=True).execute(query, parameters)
    return await cursor.fetchall()


def _has_ended(error: psycopg.Error) -> bool:
    """True if the connection is lost, not only the query."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_CONNECTION_ENDED)


def _line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())[:300]
