"""A chore: work on the tables now and then, off the path of the readings. Each one stands alone.

It has a session of its own for each round, a deadline, and its own retries. Whatever goes wrong in one, of any type, is
counted and told once; it never stops another chore or the ingest. What holds one up is named in the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import psycopg

from config.backoff import backoff_seconds
from config.seldom import Once
from ingestor.clocks import ClockDoubtError
from ingestor.housekeeping.blockers import blockers_of
from postgres.connecting import Session, connect
from postgres.session import Limits
from postgres.words import explain

logger = logging.getLogger(__name__)

ChoreName = Literal["partitions", "retention", "quarantine", "hourly", "intervals", "gauges"]

# After a failure soon again, then twice as long each time: most are over at once, some need a person.
RETRY_SECONDS_MIN = 5.0
RETRY_SECONDS_MAX = 300.0
# Of a database core a chore takes half at most while it is behind, and a tenth otherwise.
REST_FACTOR = 10.0
# Nothing waits so long for a lock in good order; from here on the log says for whom.
BLOCKED_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Chore:
    """What is done, how often, and how long it may take."""

    name: ChoreName
    round: Callable[[Session], Awaitable[bool]]
    """One round on a session in autocommit mode; True = there is more to do, so the next round comes soon."""
    every_seconds: float
    deadline_seconds: float
    """Of a round, also where the server says nothing at all: then we hang up."""
    limits: Limits = field(default_factory=Limits)


class ChoreBooks(Protocol):
    """Where rounds are counted: metrics.IngestMetrics."""

    def chore_done(self, chore: str, now: float) -> None:
        """A round went well, at `now` (seconds since 1970)."""

    def chore_failed(self, chore: str) -> None:
        """A round failed."""


class OverdueError(Exception):
    """A round took longer than its deadline; the message is one line."""


async def keep_doing(chore: Chore, *, conninfo: str, label: str, books: ChoreBooks) -> None:
    """Round after round, until cancelled. `label` is the database's name in the log."""
    clock = asyncio.get_running_loop().time
    failures, said = 0, Once()
    told: set[int] = set()
    while True:
        started = clock()
        try:
            more = await _one_round(chore, conninfo, told)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the next round comes
            failures += 1
            books.chore_failed(chore.name)
            _tell(chore, error, label, said)
            await asyncio.sleep(backoff_seconds(failures, least=RETRY_SECONDS_MIN, most=RETRY_SECONDS_MAX))
            continue
        books.chore_done(chore.name, time.time())
        if failures:
            logger.info("%s: works again", chore.name)
            failures = 0
            said.forget()
            told.clear()
        took = clock() - started
        await asyncio.sleep(took if more else max(chore.every_seconds, REST_FACTOR * took))


async def _one_round(chore: Chore, conninfo: str, told: set[int]) -> bool:
    session = await connect(conninfo, autocommit=True, application_name=f"wattline {chore.name}", limits=chore.limits)
    looking = asyncio.create_task(_name_blockers(chore, conninfo, session.backend_pid, told), name="blockers")
    deadline = session.within(chore.deadline_seconds)
    try:
        with deadline:
            return await chore.round(session)
    except psycopg.Error as error:
        if deadline.passed:
            raise OverdueError(f"no end within {chore.deadline_seconds:g} s, so we hung up") from error
        raise
    finally:
        looking.cancel()
        await session.close()  # first, since we may be cancelled while we wait
        await asyncio.wait([looking])


async def _name_blockers(chore: Chore, conninfo: str, pid: int, told: set[int]) -> None:
    """Say once of each session that holds up the session `pid` who it is."""
    while True:
        await asyncio.sleep(BLOCKED_LOOK_SECONDS)
        try:
            async with await connect(conninfo, autocommit=True, application_name="wattline blockers") as session:
                found = await blockers_of(session, pid)
        except psycopg.Error:
            continue  # the round's own session has the same trouble, and tells it
        for blocker in found:
            if blocker.pid not in told:
                told.add(blocker.pid)
                logger.warning("%s: waits for %s", chore.name, blocker)


def _tell(chore: Chore, error: Exception, label: str, said: Once) -> None:
    """Log a problem unless it is the one that was `said` last."""
    if isinstance(error, psycopg.Error):
        problem = explain(error, label)
    elif isinstance(error, OverdueError | OSError):
        problem = f"PostgreSQL at {label}: {error}"
    elif isinstance(error, ClockDoubtError):
        problem = "the clocks disagree, so nothing is deleted by time"
    else:
        problem = repr(error)
        if said.is_new(problem):
            logger.error("%s: a fault of wattline; trying again", chore.name, exc_info=error)
        return
    if said.is_new(problem):
        logger.warning("%s: %s; trying again", chore.name, problem)
