"""The chore that makes hourly sums soon after their hour, and once more after late readings.

Several ingestors may do it: a lock lets one work at a time.
"""

from __future__ import annotations

from ingestor.hourly import roll
from ingestor.housekeeping.chores import Chore
from postgres.connecting import Session
from postgres.session import Limits

LOOK_SECONDS = 10.0
# An hour of a large fleet takes seconds to sum; minutes, where the server is busy with something else.
STATEMENT_SECONDS_MAX = 600


async def roll_once(session: Session) -> bool:
    """One round; nothing, while another process is at it."""
    rolled = await roll(session)
    return rolled is not None and rolled.more


CHORE = Chore(
    "hourly",
    roll_once,
    LOOK_SECONDS,
    deadline_seconds=1200.0,
    limits=Limits(statement_ms=STATEMENT_SECONDS_MAX * 1000, lock_ms=60_000),
)
