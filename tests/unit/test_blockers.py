"""Who holds up a session, as one line for a person."""

from __future__ import annotations

from ingestor.housekeeping.blockers import Blocker


def test_a_session_is_named_with_what_ends_it() -> None:
    line = str(Blocker(123, "psql", "ann", "idle in transaction", 61.4))
    assert line == (
        "the session with pid 123 (application 'psql', user ann, idle in transaction, its transaction began 61 s ago); "
        "end its transaction, or the session by SELECT pg_terminate_backend(123)"
    )


def test_what_we_may_not_see_is_left_out() -> None:
    assert "(application '')" in str(Blocker(123, "", "", "", None))


def test_a_prepared_transaction_has_no_session() -> None:
    assert "pg_prepared_xacts" in str(Blocker(0, "", "", "", None))
