"""What an error of PostgreSQL means for a request: the connection is lost, or PostgreSQL is there and says no.

What it says goes to the log, never to a client.
"""

from __future__ import annotations

import logging

import psycopg

from analytics_api.http.errors import UnavailableError
from config.seldom import Seldom

COMPLAINT_SECONDS = 10.0  # between two log lines about queries that fail

AWAY = "The database is away."
BUSY = "The database is too busy to answer in time."
_CONNECTION_ENDED = ("08", "57P")  # SQLSTATE: connection exceptions; shutdown, crash, start-up of the server
_SCHEMA_MISSING = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName)

logger = logging.getLogger(__name__)


class Complaints:
    """Queries that fail, in the log: one line in COMPLAINT_SECONDS."""

    def __init__(self) -> None:
        self._said = Seldom(COMPLAINT_SECONDS)

    def refused(self, error: psycopg.Error) -> UnavailableError:
        """PostgreSQL is there and says no: for the log what it says, for the client what it means."""
        if self._said.due("a query failed"):
            logger.error("a query failed with %s: %s", error.sqlstate, line_of(error))
        if isinstance(error, psycopg.errors.QueryCanceled):
            return UnavailableError(BUSY)
        if isinstance(error, _SCHEMA_MISSING):
            return UnavailableError("The database schema is not ready; `wattline migrate` makes it so.")
        return UnavailableError("The database could not answer; it has been logged.")


def has_ended(error: psycopg.Error) -> bool:
    """True if the connection is lost, not only the query."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_CONNECTION_ENDED)


def line_of(error: psycopg.Error) -> str:
    """What PostgreSQL says, as one line for the log."""
    return " ".join(str(error).split())[:300]
