"""The chore that learns how often each device usually reports: of new devices soon, of all others once an hour."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from ingestor.housekeeping.chores import Chore
from ingestor.usual_interval import learn
from postgres.connecting import Session
from postgres.locks import AdvisoryLock, try_lock
from postgres.session import Limits
from telemetry.kinds import KINDS

LOOK_SECONDS = 30.0
EVERYBODY_SECONDS = 3600.0
# Twice the time between two looks, so that nobody is passed over.
LATELY = timedelta(seconds=2 * EVERYBODY_SECONDS)
NEW = timedelta(minutes=10)


def chore(clock: Callable[[], float] = time.monotonic) -> Chore:
    """`clock` counts seconds."""
    everybody_due = clock()

    async def learn_intervals(session: Session) -> bool:
        nonlocal everybody_due
        if not await try_lock(session, AdvisoryLock.USUAL_INTERVALS):
            return False  # another process is at it; the lock ends with its session
        everybody = clock() >= everybody_due
        for kind in KINDS:
            await learn(session, kind, lately=LATELY if everybody else NEW, known_too=everybody)
        if everybody:
            everybody_due = clock() + EVERYBODY_SECONDS
        return False

    return Chore("intervals", learn_intervals, LOOK_SECONDS, deadline_seconds=600.0, limits=Limits(statement_ms=60_000))
