"""The chore that deletes refused messages after REJECTED_RETENTION_DAYS."""

from __future__ import annotations

import logging

from ingestor.housekeeping.chores import Chore
from postgres.connecting import Session
from postgres.session import Limits

logger = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0
CHUNK_ROWS = 5_000  # a transaction of some 50 ms: vacuum and the flush's own inserts stay undisturbed
CHUNKS_PER_ROUND = 200

_DELETE = """
    DELETE FROM rejected_messages WHERE id IN (
        SELECT id FROM rejected_messages WHERE received_at < now() - make_interval(hours => 24 * %s)
        ORDER BY received_at LIMIT %s FOR UPDATE SKIP LOCKED
    )"""


def chore(retention_days: int) -> Chore:
    """Refused messages are kept for `retention_days`."""

    async def delete_old(session: Session) -> bool:
        deleted, more = await delete_rejected(session, retention_days)
        if deleted:
            logger.info("deleted %d refused messages after %d days", deleted, retention_days)
        return more

    return Chore(
        "quarantine",
        delete_old,
        EVERY_SECONDS,
        deadline_seconds=300.0,
        limits=Limits(statement_ms=60_000, lock_ms=10_000),
    )


async def delete_rejected(session: Session, retention_days: int) -> tuple[int, bool]:
    """Delete what has been in quarantine for longer; how many rows that were, and whether there are more."""
    deleted = 0
    for _ in range(CHUNKS_PER_ROUND):
        gone = (await session.execute(_DELETE, [retention_days, CHUNK_ROWS])).rowcount
        deleted += gone
        if gone < CHUNK_ROWS:
            return deleted, False
    return deleted, True
