"""What each failure of a flush means: the four kinds, by what PostgreSQL, libpq, psycopg and Python raise."""

import psycopg
import pytest

from postgres.failures import FailureKind, failure_kind
from postgres.fitness import UnfitError

BY_STATE: dict[FailureKind, tuple[str, ...]] = {
    # connection, serialization, deadlock, disk full, too many connections, lock, cancel, shutdown, I/O, a standby
    "transient": ("08006", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "58030", "25006"),
    "partition": ("23514",),
    # out of range, text that cannot be, null, a foreign key, unique, RAISE
    "data": ("22003", "22021", "23502", "23503", "23505", "P0001"),
    # a permission, a table, a column, a statement, an aborted transaction, damage
    "fault": ("42501", "42P01", "42703", "42601", "25P02", "XX000"),
}
ELSE: dict[FailureKind, tuple[Exception, ...]] = {
    "transient": (psycopg.OperationalError("refused"), OSError("reset"), TimeoutError()),
    "data": (psycopg.DataError("NUL"), psycopg.ProgrammingError("no such type")),
    "fault": (UnfitError("SQL_ASCII"), psycopg.InterfaceError("ours"), KeyError("ours"), psycopg.InternalError("?")),
}


@pytest.mark.parametrize(("kind", "state"), [(kind, state) for kind, states in BY_STATE.items() for state in states])
def test_a_state_has_its_kind(kind: FailureKind, state: str) -> None:
    assert failure_kind(psycopg.errors.lookup(state)("as the server says")) == kind


@pytest.mark.parametrize(("kind", "error"), [(kind, error) for kind, errors in ELSE.items() for error in errors])
def test_what_has_no_state_has_its_kind(kind: FailureKind, error: Exception) -> None:
    assert failure_kind(error) == kind
