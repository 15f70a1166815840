"""The chore that makes the partitions of the days to come, so that no flush has to wait for one."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from ingestor.housekeeping.chores import Chore
from ingestor.schema.partitions import days_ahead, ensure_partitions
from postgres.connecting import Session
from postgres.session import Limits

logger = logging.getLogger(__name__)

# They are made three days ahead, so an hour is often enough even if many rounds fail.
EVERY_SECONDS = 3600.0


async def make_partitions_ahead(session: Session) -> bool:
    made = await ensure_partitions(session, days_ahead(datetime.now(UTC)))
    if made:
        logger.info("partitions made: %s", ", ".join(made))
    return False


CHORE = Chore(
    "partitions", make_partitions_ahead, EVERY_SECONDS, deadline_seconds=60.0, limits=Limits(statement_ms=30_000)
)
