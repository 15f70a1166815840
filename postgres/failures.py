"""What a failed flush means: which of four kinds, so that the code says what happens next.

*transient*: keep the batch and try again soon. *partition*: a day's table is missing, which is ours to create. *data*:
a value that PostgreSQL refuses; find it, quarantine it, store the others. *fault*: a bug or a missing permission; keep
trying slowly and be loud. Nothing is ever dropped.
"""

from __future__ import annotations

from typing import Literal

import psycopg

from postgres.fitness import UnfitError

FailureKind = Literal["transient", "partition", "data", "fault"]

# SQLSTATE classes (PostgreSQL, appendix A): 08 connection, 40 rollback (deadlock, serialization), 53 resources (disk
# full, too many connections), 55 object in use or locked, 57 operator (shutdown, cancel), 58 system (I/O error).
TRANSIENT_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
# A standby that was not promoted yet.
READ_ONLY = "25006"
# 22 data exception, 23 constraint, P0 raised by a trigger of the owner's.
DATA_CLASSES = frozenset({"22", "23", "P0"})
CHECK_VIOLATION = "23514"
# PostgreSQL's own name for the place where PL/pgSQL carries out RAISE: the SQLSTATE is then what the owner of a trigger
# chose, and says nothing about the server.
RAISED = "exec_stmt_raise"


def failure_kind(error: Exception) -> FailureKind:
    """The kind of a failure that came out of a flush."""
    if not isinstance(error, psycopg.Error):
        return "transient" if isinstance(error, OSError | TimeoutError) else "fault"
    if error.diag.source_function == RAISED:
        return "data"
    return _without_state(error) if error.sqlstate is None else _by_state(error.sqlstate, error.diag.constraint_name)


def _without_state(error: psycopg.Error) -> FailureKind:
    """What libpq or psycopg says for itself."""
    match error:
        case UnfitError():
            return "fault"
        case psycopg.OperationalError():
            return "transient"  # no connection, or a connection that broke
        case psycopg.DataError() | psycopg.ProgrammingError():
            return "data"  # a value that cannot even be sent
        case _:
            return "fault"


def _by_state(state: str, constraint: str | None) -> FailureKind:
    if state == CHECK_VIOLATION and not constraint:
        # A CHECK of a table has a name; a partitioned table without a place for the row has none to give.
        return "partition"
    if state == READ_ONLY or state[:2] in TRANSIENT_CLASSES:
        return "transient"
    return "data" if state[:2] in DATA_CLASSES else "fault"
