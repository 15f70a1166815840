"""The chore that drops the days of history that are past RETENTION_DAYS, and their hourly sums."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from ingestor.hourly import delete_expired_sums
from ingestor.housekeeping.chores import Chore
from ingestor.schema.partitions import drop_expired, oldest_day_kept
from postgres.connecting import Session
from postgres.session import Limits

logger = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0


def chore(retention_days: int) -> Chore:
    """0 keeps everything."""

    async def drop_old_days(session: Session) -> bool:
        if retention_days:
            now = datetime.now(UTC)
            dropped = await drop_expired(session, retention_days, now)
            if dropped:
                logger.info("partitions dropped: %s", ", ".join(dropped))
            oldest = datetime.combine(oldest_day_kept(retention_days, now), datetime.min.time(), UTC)
            await delete_expired_sums(session, oldest)
        return False

    # Waiting for a reader to end holds nobody up, so it may take a while.
    return Chore("retention", drop_old_days, EVERY_SECONDS, deadline_seconds=900.0, limits=Limits(lock_ms=60_000))
