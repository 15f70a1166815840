"""The chore that keeps the quarantine within REJECTED_RETENTION_DAYS and REJECTED_MAX_BYTES.

The sink makes room for what it writes; here the table is measured now and then, because others write there too, what is
too much is deleted, and PostgreSQL may use the room of what was deleted again. As with the history, nothing goes on the
word of one clock: the earlier one counts, never more than the newest stored reading allows, and clocks that disagree
stop what goes by time.
"""

from __future__ import annotations

import logging
import math
import time
from datetime import datetime, timedelta

from ingestor.clocks import Clocks
from ingestor.housekeeping.chores import Chore
from ingestor.housekeeping.newest import newest_reading
from ingestor.rejected import queries
from ingestor.rejected.bound import ByteBound
from ingestor.rejected.store import delete_oldest
from postgres.connecting import Session
from postgres.session import Limits

logger = logging.getLogger(__name__)

# A flood of refusals leaves some hundred MB of deleted rows in this time.
EVERY_SECONDS = 15.0
RETENTION_SECONDS = 3600.0
MEASURE_SECONDS = 600.0
CHUNK_ROWS = 5_000  # a transaction of some 50 ms: vacuum and the flush's own inserts stay undisturbed
CHUNKS_PER_ROUND = 200

_DELETE = """
    DELETE FROM rejected_messages WHERE id IN (
        SELECT id FROM rejected_messages WHERE received_at < %s
        ORDER BY received_at LIMIT %s FOR UPDATE SKIP LOCKED
    )"""


def chore(retention_days: int, clocks: Clocks, bound: ByteBound) -> Chore:
    """Refused messages are kept for `retention_days`, and within `bound`."""
    measured = deleted_from = -math.inf

    async def round_(session: Session) -> bool:
        nonlocal measured, deleted_from
        now, more = time.monotonic(), False
        if now - measured >= MEASURE_SECONDS or bound.wants_vacuum:
            await _keep_within(session, bound)
            measured = now
        if now - deleted_from >= RETENTION_SECONDS:
            deleted, more = await delete_rejected(session, await _oldest_kept(session, retention_days, clocks))
            if deleted:
                logger.info("deleted %d refused messages after %d days", deleted, retention_days)
            deleted_from = deleted_from if more else now
        return more

    return Chore(
        "quarantine",
        round_,
        EVERY_SECONDS,
        deadline_seconds=300.0,
        limits=Limits(statement_ms=60_000, lock_ms=10_000),
    )


async def _keep_within(session: Session, bound: ByteBound) -> None:
    row = await (await session.execute(queries.MEASURE)).fetchone()
    bound.held = int(row[0]) if row else 0
    while bound.excess > 0:
        async with session.transaction():
            rows, size = await delete_oldest(session, bound.excess)
        if not rows:
            break
        bound.changed(0, size)
        logger.info("deleted the oldest %d refused messages: REJECTED_MAX_BYTES is reached", rows)
    if bound.wants_vacuum:
        bound.deleted_since_vacuum = 0
        await session.execute(queries.VACUUM)


async def _oldest_kept(session: Session, retention_days: int, clocks: Clocks) -> datetime:
    """Raises ClockDoubtError where the clocks disagree."""
    await clocks.compare(session)
    now, newest = clocks.earlier(), await newest_reading(session)
    return (now if newest is None else min(now, newest)) - timedelta(days=retention_days)


async def delete_rejected(session: Session, before: datetime) -> tuple[int, bool]:
    """Delete a part of what came into quarantine before `before`; how many rows, and whether there are more."""
    deleted = 0
    for _ in range(CHUNKS_PER_ROUND):
        gone = (await session.execute(_DELETE, [before, CHUNK_ROWS])).rowcount
        deleted += gone
        if gone < CHUNK_ROWS:
            return deleted, False
    return deleted, True
