"""One way to connect to PostgreSQL, and one way to say what went wrong.

Every session works in UTC, notices within half a minute that its server is gone, and carries a name that shows in
`pg_stat_activity`. Nothing here logs, retries or ever repeats a connection string: that may hold the password.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

CONNECT_TIMEOUT_SECONDS = 5
CANCEL_SECONDS_MAX = 1.0
# A server that vanished without a word (power, network, failover) is noticed after idle + interval * count = 25 s when
# the session is silent, and after the user timeout when it has sent something. Linux's own defaults are two hours.
_DEFAULTS: dict[str, str | int] = {
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


async def connect(
    conninfo: str, *, autocommit: bool = False, application_name: str = "wattline"
) -> AsyncConnection[TupleRow]:
    """A new session. What the connection string says about timeouts wins over our defaults.

    Raises psycopg.OperationalError; `explain` turns it into a line, `is_lasting` says whether waiting is pointless.
    """
    given = conninfo_to_dict(conninfo)
    parameters = _DEFAULTS | {"application_name": application_name} | given
    parameters["options"] = f"{given.get('options') or ''} -c TimeZone=UTC".strip()
    return await _Session.connect(make_conninfo("", **parameters), autocommit=autocommit)


class _Session(AsyncConnection[TupleRow]):
    """A connection whose queries can be cancelled although the server is silent.

    psycopg asks the server to cancel and waits for the query to end, 5 s each: longer than a stop may take.
    """

    async def cancel_safe(self, *, timeout: float = CANCEL_SECONDS_MAX) -> None:  # noqa: ASYNC109 - psycopg's signature
        """Part of psycopg, which calls it when a task that waits for a query is cancelled."""
        try:
            await super().cancel_safe(timeout=min(timeout, CANCEL_SECONDS_MAX))
        except psycopg.Error:
            self._hang_up()

    def _hang_up(self) -> None:
        """Make whoever waits for the server's answer fail at once; the server rolls back what is not committed."""
        # A duplicate, because closing the socket object would close libpq's own.
        with suppress(OSError), socket.socket(fileno=os.dup(self.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class _Refusal:
    """What libpq or the server says, our words for it, and whether it stays so until somebody changes something."""

    said: re.Pattern[str]
    meaning: str
    lasting: bool


# libpq gives a failed connection no SQLSTATE, so its text is all there is. The server's part is English only where
# its lc_messages is; in other languages the text is passed on as it is, and counts as passing. Of several addresses
# of one host the last speaks last, but the most telling one decides, so the lasting ones stand first.
_REFUSALS = tuple(
    _Refusal(re.compile(said), meaning, lasting)
    for said, meaning, lasting in (
        (
            r'password authentication failed for user "(.*?)"',
            'the password of user "{0}" is refused; check DATABASE_USERNAME and DATABASE_PASSWORD, or DATABASE_URL',
            True,
        ),
        (r"no password supplied", "a password is asked for; set DATABASE_PASSWORD, or put it into DATABASE_URL", True),
        (
            r'database "(.*?)" does not exist',
            'there is no database "{0}"; create it (createdb), or check DATABASE_NAME or DATABASE_URL',
            True,
        ),
        (r'role "(.*?)" does not exist', 'there is no user "{0}"; check DATABASE_USERNAME or DATABASE_URL', True),
        (
            r'permission denied for database "(.*?)"',
            'the user may not connect to database "{0}"; GRANT CONNECT ON DATABASE gives the right',
            True,
        ),
        (r"no pg_hba.conf entry for (.*)", "the server's pg_hba.conf lets nobody in as {0}", True),
        (r"Connection refused", "nothing listens there; is PostgreSQL running? Check DATABASE_HOST and _PORT", False),
        (r"failed to resolve host", "the host name is unknown; check DATABASE_HOST or DATABASE_URL", False),
        (r"timeout expired", "it does not answer in time", False),
        (r"the database system is (starting up|shutting down|in recovery mode)", "the server is {0}", False),
    )
)
_PREAMBLE = re.compile(r"^connection (?:failed|is bad): |connection to server .*? failed: |(?:FATAL|ERROR): +")


def explain(error: psycopg.Error, label: str) -> str:
    """One line for a person: what is wrong with the database at `label` (`host:port/name`), and what to do about it."""
    if isinstance(error, psycopg.errors.LockNotAvailable):
        what = "another session holds a lock that is needed for too long; pg_stat_activity shows whose"
    elif isinstance(error, psycopg.errors.InsufficientPrivilege):
        what = f"{error.diag.message_primary}; grant it to the user of DATABASE_USERNAME, or be the tables' owner"
    elif found := _refusal(error):
        refusal, match = found
        what = refusal.meaning.format(*match.groups())
    else:
        first_line = error.diag.message_primary or (str(error).splitlines() or [type(error).__name__])[0]
        what = _PREAMBLE.sub("", first_line)
    return f"PostgreSQL at {label}: {' '.join(what.split())}"


def is_lasting(error: psycopg.Error) -> bool:
    """True if a failed connection will fail again until somebody changes a setting or the server."""
    found = _refusal(error)
    return found is not None and found[0].lasting


def _refusal(error: psycopg.Error) -> tuple[_Refusal, re.Match[str]] | None:
    if error.sqlstate is not None or not isinstance(error, psycopg.OperationalError):
        return None
    text = str(error)
    return next(((refusal, match) for refusal in _REFUSALS if (match := refusal.said.search(text))), None)
