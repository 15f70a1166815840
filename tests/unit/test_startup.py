"""At the start the ingestor waits for its database as long as it takes; it gives up on what only a person can mend."""

from __future__ import annotations

import asyncio
import logging

import psycopg
import pytest

from config.settings import load_settings
from ingestor import startup
from ingestor.clock_watch import ClockWatch
from ingestor.clocks import Clocks
from ingestor.subscription import Remembered
from postgres.fitness import UnfitError

REFUSED = psycopg.OperationalError("connection refused")
NO_ROOM = psycopg.errors.TooManyConnections("sorry, too many clients already")


def start(monkeypatch: pytest.MonkeyPatch, failures: list[Exception], troubles: list[str] | None = None) -> None:
    """A start whose first attempts fail so."""
    found = Remembered(filters=[], others=[])
    monkeypatch.setattr(startup, "RETRY_SECONDS", 0)

    async def prepared(*_: object) -> Remembered:
        if failures:
            raise failures.pop(0)
        return found

    async def story() -> Remembered:
        clock_watch = ClockWatch("", Clocks(300), on_look=lambda: None)
        said = [] if troubles is None else troubles
        return await startup.prepare_database(load_settings(), clock_watch, said.append)

    monkeypatch.setattr(startup, "_prepared", prepared)
    assert asyncio.run(story()) is found


def test_it_waits_and_tells_each_trouble_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    troubles: list[str] = []
    with caplog.at_level(logging.WARNING):
        start(monkeypatch, [REFUSED, REFUSED, NO_ROOM, NO_ROOM], troubles)
    assert len(troubles) == 4, "/readyz always knows the latest"
    assert all(trouble.startswith("the database ") for trouble in troubles)
    lines = [record.message for record in caplog.records]
    assert len(lines) == 2
    assert all(line.endswith("; waiting for it") for line in lines)


@pytest.mark.parametrize("failure", [UnfitError("the database has another encoding"), ZeroDivisionError("a bug")])
def test_what_no_waiting_mends_is_raised(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    with pytest.raises(type(failure)):
        start(monkeypatch, [failure])
