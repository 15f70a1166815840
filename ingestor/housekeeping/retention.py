"""Which days of history are past RETENTION_DAYS, and how many of them may go without a person's yes.

Nothing is deleted on the word of one clock. What counts is the earlier of ours and the database's, and never more than
the newest stored reading allows; clocks that disagree stop it. Days that became due all at once (a clock that was set,
RETENTION_DAYS made smaller, a long pause) wait for `wattline retention run --yes`, all but the first two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import LiteralString

from ingestor.clocks import Clocks
from ingestor.hourly import delete_expired_sums
from ingestor.housekeeping.chores import Chore
from ingestor.housekeeping.newest import newest_reading
from ingestor.schema.partitions import day_tables, drop_expired, may_drop, oldest_day_kept
from ledger.annul import delete_expired_readings
from postgres.connecting import Session
from postgres.session import Limits

logger = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0
# Beyond what was due when retention last finished. One a day is the ordinary course.
DAYS_WITHOUT_YES = 2

_PROGRESS: LiteralString = "SELECT kept_from FROM retention_progress"
_REMEMBER: LiteralString = """
    INSERT INTO retention_progress (kept_from) VALUES (%s)
    ON CONFLICT (only_row) DO UPDATE SET kept_from = excluded.kept_from, decided_at = excluded.decided_at"""


@dataclass(frozen=True)
class Plan:
    """What retention would do now."""

    now: datetime
    """The earlier of the two clocks."""
    newest: datetime | None
    """The newest stored reading; None where nothing is stored."""
    wanted: date
    """The first day that RETENTION_DAYS keeps."""
    reached: date
    """The first day kept when retention last finished."""
    due: tuple[tuple[date, str], ...]
    """Days that are past their retention, each with its table; two tables a day."""

    @property
    def granted(self) -> date:
        """The first day that is kept without a person's yes."""
        return min(self.wanted, self.reached + timedelta(days=DAYS_WITHOUT_YES))

    @property
    def held(self) -> list[date]:
        """Days that are due and wait for a yes."""
        return sorted({day for day, _ in self.due if day >= self.granted})

    @property
    def left(self) -> list[date]:
        """The days that are due for so long that nobody seems to drop them: the owner's process looks once an hour."""
        return sorted({day for day, _ in self.due if day < self.wanted - timedelta(days=DAYS_WITHOUT_YES)})


def plan(
    keep_days: int, now: datetime, newest: datetime | None, reached: date | None, tables: list[tuple[date, str]]
) -> Plan:
    """What follows from the clock, the newest reading, what was `reached` before (None: nothing yet) and the tables."""
    wanted = oldest_day_kept(keep_days, now if newest is None else min(now, newest))
    oldest = min((day for day, _ in tables), default=wanted)
    due = tuple(sorted((day, name) for day, name in tables if day < wanted))
    return Plan(now, newest, wanted, min(oldest, wanted) if reached is None else reached, due)


async def look(session: Session, keep_days: int, clocks: Clocks) -> Plan:
    """What would go now. Raises ClockDoubtError where the clocks disagree."""
    await clocks.compare(session)
    now, newest = clocks.earlier(), await newest_reading(session)
    row = await (await session.execute(_PROGRESS)).fetchone()
    return plan(keep_days, now, newest, row[0] if row else None, await day_tables(session))


async def drop_due(session: Session, keep_days: int, clocks: Clocks, *, yes: bool = False) -> tuple[Plan, list[str]]:
    """Drop what may go; with `yes` all that is due. The plan, and the tables that went."""
    found = await look(session, keep_days, clocks)
    everything = yes or not found.held
    kept_from = found.wanted if everything else found.granted
    # Said before it is done: an interrupted round must not get two days more each time that it starts.
    await session.execute(_REMEMBER, [found.wanted if everything else found.reached])
    dropped = await drop_expired(session, kept_from)
    midnight = datetime.combine(kept_from, datetime.min.time(), UTC)
    await delete_expired_sums(session, midnight)
    await delete_expired_readings(session, midnight)
    return found, dropped


def chore(keep_days: int, clocks: Clocks, note_held: Callable[[int], None]) -> Chore:
    """`keep_days` 0 keeps everything; `note_held` is told how many days wait for a person."""
    said: list[date] = []

    async def one_round(session: Session) -> bool:
        if keep_days == 0:
            return False
        if not await may_drop(session):
            found = await look(session, keep_days, clocks)
            note_held(len(found.left))
            if found.left and found.left != said:
                said[:] = found.left
                logger.warning(
                    "%d days are past RETENTION_DAYS=%d and are still there, %s to %s: this user may not drop them; "
                    "`wattline retention keep` does, as the owner of the tables",
                    len(found.left),
                    keep_days,
                    found.left[0],
                    found.left[-1],
                )
            return False
        found, dropped = await drop_due(session, keep_days, clocks)
        if dropped:
            logger.info("partitions dropped: %s", ", ".join(dropped))
        note_held(len(found.held))
        if found.held and found.held != said:
            said[:] = found.held
            logger.warning(
                "%d days are past RETENTION_DAYS=%d and are kept, %s to %s: more than %d became due at once, which a "
                "wrong clock or setting does too; look with `wattline retention`, then `wattline retention run --yes`",
                len(found.held),
                keep_days,
                found.held[0],
                found.held[-1],
                DAYS_WITHOUT_YES,
            )
        return False

    # Waiting for a reader to end holds nobody up, so it may take a while.
    return Chore("retention", one_round, EVERY_SECONDS, deadline_seconds=900.0, limits=Limits(lock_ms=60_000))
