"""What an outage and a failing query leave in the log, and what a client is told: once, in our words."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest

from analytics_api.database.failures import BUSY, Complaints, has_ended
from analytics_api.database.outage import Outage


def test_an_outage_is_said_once_until_its_reason_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage("db:5432/energy")
    outage.ended()
    assert outage.trouble is None
    for _ in range(3):
        outage.begun("is not there", "connection refused")
    outage.begun("does not let us in", "password authentication failed")
    assert outage.trouble == "does not let us in"
    outage.ended()
    outage.ended()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"]
    assert outage.trouble is None


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (psycopg.OperationalError("server closed the connection unexpectedly"), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.errors.CannotConnectNow(), True),
        (psycopg.errors.ConnectionFailure(), True),
        (psycopg.errors.QueryCanceled(), False),
        (psycopg.errors.UndefinedTable(), False),
        (psycopg.ProgrammingError("the query has 1 placeholder"), False),
    ],
)
def test_whether_the_connection_is_lost(error: Any, ended: bool) -> None:
    assert has_ended(error) is ended


def test_failing_queries_are_one_line_and_no_word_of_theirs_reaches_a_client(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    errors = (
        psycopg.errors.DivisionByZero("division by zero\nCONTEXT: secret"),
        psycopg.errors.UndefinedTable("relation"),
    )
    said = [str(complaints.refused(error)) for error in errors]
    assert "secret" not in " ".join(said)
    assert "wattline migrate" in said[1]
    assert [record.message for record in caplog.records] == [
        "a query failed with 22012: division by zero CONTEXT: secret"
    ]


def test_a_query_that_takes_too_long_is_busy() -> None:
    assert str(Complaints().refused(psycopg.errors.QueryCanceled())) == BUSY
