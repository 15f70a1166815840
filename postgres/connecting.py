"""One way to connect to PostgreSQL: a session that notices a dead server, can be given up, and works as we rely on.

Each session carries a name that shows in `pg_stat_activity`. Nothing here logs, retries or ever repeats a connection
string: that may hold the password.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from postgres.deadline import Deadline
from postgres.fitness import check_encoding, check_session_is_ours
from postgres.session import Limits, opening

CONNECT_TIMEOUT_SECONDS = 5
CANCEL_SECONDS_MAX = 1.0
# One round trip of settings, and behind a pooler one more connection.
SET_UP_SECONDS_MAX = 5.0
# A server that vanished without a word (power, network, failover) is noticed after idle + interval * count = 25 s when
# the session is silent, and after the user timeout when it has sent something. Linux's own defaults are two hours.
_DEFAULTS: dict[str, str | int] = {
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_NO_LIMITS = Limits()


class Session(AsyncConnection[TupleRow]):
    """A connection that is set up as we rely on, and whose queries can be given up although the server is silent.

    psycopg asks the server to cancel and waits for the query to end, 5 s each: longer than a stop may take.
    """

    backend_pid: int
    """Of the server's process; `info.backend_pid` is a pooler's invention behind a pooler."""
    has_workers: bool = False
    """Whether the database has Citus, so that its rows may lie on other servers."""

    @classmethod
    async def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        limits: Limits = _NO_LIMITS,
        **parameters: Any,  # noqa: ANN401 - psycopg's
    ) -> Self:
        """Raises psycopg.OperationalError; UnfitError, which is one, where the database or a pooler will not do."""
        session = await super().connect(conninfo, autocommit=True, **parameters)
        try:
            await session.set_up(conninfo, limits)
            await session.set_autocommit(autocommit)
        except BaseException:
            await session.close()
            raise
        return session

    async def set_up(self, conninfo: str, limits: Limits) -> None:
        """Part of `connect`."""
        with self.within(SET_UP_SECONDS_MAX):
            check_encoding(self.info)
            cursor = await self.execute(opening(self.info.server_version, limits), prepare=False)
            while cursor.nextset():
                pass
            self.backend_pid, self.has_workers = await cursor.fetchone() or (0, False)
            if self.backend_pid != self.info.backend_pid:
                await check_session_is_ours(self, conninfo)

    async def cancel_safe(self, *, timeout: float = CANCEL_SECONDS_MAX) -> None:  # noqa: ASYNC109 - psycopg's signature
        """Part of psycopg, which calls it when a task that waits for a query is cancelled."""
        try:
            await super().cancel_safe(timeout=min(timeout, CANCEL_SECONDS_MAX))
        except psycopg.Error:
            self.hang_up()

    def within(self, seconds: float) -> Deadline:
        """For a `with`: what waits for the server inside fails once the time is over."""
        return Deadline(seconds, self.hang_up)

    def hang_up(self) -> None:
        """Make whatever waits for the server's answer fail at once; the server rolls back what is not committed."""
        # A duplicate, because closing the socket object would close libpq's own.
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)


async def connect(
    conninfo: str,
    *,
    autocommit: bool = False,
    application_name: str = "wattline",
    limits: Limits = _NO_LIMITS,
) -> Session:
    """A new session. What the connection string says about timeouts wins over our defaults.

    Raises psycopg.OperationalError; `explain` turns it into a line, `is_lasting` says whether waiting is pointless.
    """
    return await Session.connect(
        with_defaults(conninfo, application_name=application_name), autocommit=autocommit, limits=limits
    )


def connect_blocking(conninfo: str, *, application_name: str = "wattline") -> Connection[TupleRow]:
    """A connection for code without an event loop, set up as `connect` does, in autocommit mode."""
    connection = psycopg.connect(with_defaults(conninfo, application_name=application_name), autocommit=True)
    try:
        check_encoding(connection.info)
        connection.execute(opening(connection.info.server_version, _NO_LIMITS), prepare=False)
    except BaseException:
        connection.close()
        raise
    return connection


def with_defaults(conninfo: str, **defaults: str | int) -> str:
    """The connection string with our timeouts, `defaults` instead of them, and what it says itself instead of both."""
    said = conninfo_to_dict(conninfo)
    if "," in str(said.get("host", "")):
        # Of several servers the first that answers may be a standby, and nothing could ever be written there.
        defaults = {"target_session_attrs": "read-write", **defaults}
    return make_conninfo("", **(_DEFAULTS | defaults | said))
