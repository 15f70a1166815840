"""Flushes held at a chosen point, so that a fault can strike exactly there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from tests.waiting import wait_until

WaitForFlush = Callable[[], int]
"""Returns, when a flush has come to the chosen point, the pid of its backend."""

GATE = 42

_BLOCKED = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = %s AND wait_event_type = 'Lock'
"""
# A deferred constraint trigger runs inside COMMIT, after everything else.
_GATE_AT_COMMIT = f"""
    CREATE FUNCTION pass_the_gate() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON meter_readings_history
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass_the_gate();
"""


@contextmanager
def held_before_commit(url: str) -> Iterator[WaitForFlush]:
    """Inside, a flush of meters writes its history and waits then; the function given waits until one does."""
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE meter_status IN EXCLUSIVE MODE")
        yield lambda: _wait_for_flush(url)


@contextmanager
def held_in_commit(url: str) -> Iterator[WaitForFlush]:
    """Inside, a flush of meters waits in COMMIT, and its sender does not know what becomes of it; the function given
    waits until one does. Needs `make_gate` before.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [GATE])
        yield lambda: _wait_for_flush(url, "AND query = 'COMMIT'")


def make_gate(url: str) -> None:
    """Make every COMMIT of meters pass a gate, which is open but for `held_in_commit`."""
    with psycopg.connect(url) as connection:
        connection.execute(_GATE_AT_COMMIT)


def wait_until_blocked(url: str, application: str, condition: str = "") -> int:
    """Until a session of this name waits for a lock; its pid."""
    with psycopg.connect(url, autocommit=True) as connection:
        query = (_BLOCKED + condition).encode()
        row = wait_until(lambda: connection.execute(query, [application]).fetchone(), 10, f"{application} waits")
        return int(row[0])


def _wait_for_flush(url: str, condition: str = "") -> int:
    return wait_until_blocked(url, "wattline ingest", condition)
