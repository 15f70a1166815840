"""What strangers read about the database: the kind of trouble, and no word of PostgreSQL's."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres.fitness import UnfitError
from postgres.trouble import trouble_with

AT = 'connection to server at "10.1.2.3", port 5432 failed: '


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (psycopg.OperationalError(f"{AT}Connection refused\n\tIs the server running on that host?"), "are refused"),
        (psycopg.OperationalError(f'{AT}FATAL:  password authentication failed for user "zoe"'), "let us in"),
        (psycopg.OperationalError(f'{AT}FATAL:  no pg_hba.conf entry for host "10.1.2.4", user "zoe"'), "let us in"),
        (psycopg.OperationalError(f'{AT}FATAL:  role "zoe" does not exist'), "let us in"),
        (psycopg.OperationalError(f'{AT}FATAL:  database "secret_db" does not exist'), "no database"),
        (psycopg.OperationalError(f"{AT}FATAL:  the database system is starting up"), "starting"),
        (psycopg.OperationalError(f"{AT}FATAL:  sorry, too many clients already"), "no room left"),
        (psycopg.OperationalError(f"{AT}session is read-only"), "takes writes"),
        (psycopg.OperationalError("failed to resolve host 'db.internal': [Errno -2]"), "host name"),
        (psycopg.OperationalError("connection timeout expired"), "in time"),
        (psycopg.OperationalError(f"{AT}No route to host"), "cannot be reached"),
        (psycopg.OperationalError("the connection is lost"), "ended our connection"),
        (psycopg.OperationalError("etwas anderes"), "cannot be reached"),
        (psycopg.errors.InsufficientPrivilege("permission denied for table meter_status"), "a right"),
        (psycopg.errors.ReadOnlySqlTransaction("cannot execute"), "no writes"),
        (psycopg.errors.DiskFull("could not extend file"), "no room left"),
        (psycopg.errors.TooManyConnections("remaining connection slots"), "no room left"),
        (psycopg.errors.AdminShutdown("terminating connection"), "starting, stopping"),
        (psycopg.errors.QueryCanceled("canceling statement"), "in time"),
        (psycopg.errors.LockNotAvailable("canceling statement"), "lock"),
        (psycopg.errors.UndefinedTable('relation "x" does not exist'), "tables"),
        (psycopg.errors.SyntaxError('syntax error at or near "x"'), "SQLSTATE 42601"),
        (psycopg.errors.DataCorrupted("invalid page"), "damage"),
        (UnfitError("the database's encoding is LATIN1"), "not fit"),
        (TimeoutError(), "in time"),
        (OSError(111, "Connection refused"), "cannot be reached"),
        (ValueError("x"), "we made wrong"),
    ],
)
def test_the_kind_of_trouble(error: Any, words: str) -> None:
    told = trouble_with(error)
    assert words in told
    assert not any(name in told for name in ("10.1.2", "zoe", "secret_db", "db.internal", "5432", "meter_status"))


@given(st.text(), st.sampled_from([psycopg.OperationalError, psycopg.errors.InternalError, OSError, Exception]))
def test_no_text_of_an_error_is_passed_on(text: str, kind: Any) -> None:
    assert trouble_with(kind(f"{text}<mark>")) in {trouble_with(kind(said)) for said in (text, "", f"{text}<mark>")}
    assert "<mark>" not in trouble_with(kind(f"{text}<mark>"))
