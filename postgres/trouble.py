"""What kind of trouble the database is in, in words that anybody may read: for /readyz, which strangers can ask.

No word of PostgreSQL's or libpq's own, no address, no name of a user, a database or a table; those are in the log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import psycopg

from postgres.fitness import UnfitError

NO_ANSWER = "does not answer in time"
_ENDED = "has ended our connection"
_NOT_US = "does not let us in: user, password or pg_hba.conf"
_FULL = "has no room left: disk, memory or connections"

# libpq gives a failed connection no SQLSTATE, so its text is all there is.
_CONNECTING = tuple(
    (re.compile(said), words)
    for said, words in (
        (r"password|pg_hba|role .* does not exist|permission denied|SSL|certificate|GSS|authentication", _NOT_US),
        (r"database .* does not exist", "has no database of the name that is set"),
        (r"starting up|shutting down|recovery", "is starting, stopping or recovering"),
        (r"too many (connections|clients)|connection slots|connection limit", _FULL),
        (r"read-only|not a (hot )?standby|hot standby|server is (not )?in", "is none that takes writes"),
        (r"refused", "is not there: connections are refused"),
        (r"resolve|name or service|host name|No address", "has a host name that nobody knows"),
        (r"timeout|timed out", NO_ANSWER),
        (r"unreachable|No route", "cannot be reached from here"),
        (r"closed the connection|reset by peer|Broken pipe|consuming input|lost", _ENDED),
    )
)
# SQLSTATE or its class (PostgreSQL, appendix A), the longest match counts.
_STATES: Mapping[str, str] = {
    "08": _ENDED,
    "22": "refuses a value",
    "23": "refuses a value",
    "25006": "takes no writes at the moment",
    "26": _ENDED,
    "28": _NOT_US,
    "3D": "has no database of the name that is set",
    "3F": "lacks tables that we need",
    "40": "had to choose between two transactions",
    "42501": "denies us a right that we need",
    "42P01": "lacks tables that we need",
    "42703": "lacks tables that we need",
    "53": _FULL,
    "55": "is held up by a lock of another session",
    "57014": NO_ANSWER,
    "57": "is starting, stopping or recovering",
    "58": "cannot read or write its files",
    "P0": "refuses a value",
    "XX": "reports damage or a fault of its own",
}


def trouble_with(error: BaseException) -> str:
    """What the database does or lacks, to follow "the database"."""
    if isinstance(error, UnfitError):
        return "is not fit for us as it is set up"
    if isinstance(error, TimeoutError):
        return NO_ANSWER
    if isinstance(error, psycopg.Error):
        state = error.sqlstate or ""
        found = (_STATES[state[:length]] for length in (5, 2) if state[:length] in _STATES)
        if words := next(found, None):
            return words
        if state:
            return f"refuses what we ask (SQLSTATE {state})"
        text = str(error)
        return next((words for said, words in _CONNECTING if said.search(text)), "cannot be reached")
    return "cannot be reached" if isinstance(error, OSError) else "is asked something that we made wrong"
