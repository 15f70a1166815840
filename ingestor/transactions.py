"""What a failure inside a transaction leaves behind: a session that can go on from its savepoint, or none."""

from __future__ import annotations

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from postgres.failures import RAISED


def is_alive(connection: AsyncConnection[TupleRow]) -> bool:
    """Whether a failed savepoint was rolled back and its transaction can go on."""
    return not connection.closed and connection.info.transaction_status == TransactionStatus.INTRANS


def raised_on_purpose(error: BaseException) -> bool:
    """Whether somebody's function said RAISE EXCEPTION: its SQLSTATE is then what its author chose, and says nothing
    about the state of the server.
    """
    return isinstance(error, psycopg.Error) and error.diag.source_function == RAISED
