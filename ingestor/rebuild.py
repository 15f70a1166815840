"""`wattline rebuild-hourly`: sum the hours of a stretch of time again, as after a repair by hand.

It only says that those hours are invalid and rolls them as the ingestor does, so it may run while everything else does,
be interrupted, and be run again; readers stay exact throughout.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from datetime import datetime
from functools import partial

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from config.errors import UsageError
from config.settings import Settings
from ingestor.hourly import HOUR, hour_of, roll
from postgres.command import run_with_database
from postgres.connecting import connect
from telemetry.kinds import KINDS
from telemetry.moments import FORM, moment

WAIT_SECONDS = 0.5  # for the roller of an ingestor that is just at it

# Hours that are not over are summed by nobody, so they would stay invalid for nothing.
INVALIDATE_RANGE = """
    INSERT INTO hourly_invalidations (kind, hour, place)
    SELECT kind, hour, place
    FROM hourly_places
    CROSS JOIN unnest(%(kinds)s::text[]) AS kind
    CROSS JOIN generate_series(
        %(start)s::timestamptz, least(%(end)s::timestamptz, date_trunc('hour', now(), 'UTC')) - interval '1 hour',
        interval '1 hour'
    ) AS hour"""
LEFT = """
    SELECT count(DISTINCT (kind, hour)) FROM hourly_invalidations
    WHERE hour >= %(start)s AND hour < least(%(end)s, date_trunc('hour', now(), 'UTC'))"""

logger = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="start", required=True, type=moment, metavar="TIME", help=f"first hour, like {FORM}"
    )
    parser.add_argument("--to", dest="end", required=True, type=moment, metavar="TIME", help="end, not included")


def run(args: argparse.Namespace) -> int:
    """Sum every hour of the stretch. Raises WattlineError."""
    if args.end <= args.start:
        raise UsageError("--to must be later than --from")
    run_with_database(args, partial(_rebuild, hour_of(args.start), _end_of_hour(args.end)))
    return 0


async def _rebuild(start: datetime, end: datetime, settings: Settings) -> None:
    stretch = {"start": start, "end": end}
    connection = await connect(settings.database_conninfo, autocommit=True, application_name="wattline rebuild-hourly")
    async with connection:
        await connection.execute(INVALIDATE_RANGE, {**stretch, "kinds": [kind.name for kind in KINDS]})
        total = left = await _left(connection, stretch)
        logger.info("hours to sum: %d (each kind of reading apart)", total)
        while left:
            if await roll(connection) is None:
                await asyncio.sleep(WAIT_SECONDS)
            left = await _left(connection, stretch)
        logger.info("summed %d hours", total)


async def _left(connection: AsyncConnection[TupleRow], stretch: dict[str, datetime]) -> int:
    row = await (await connection.execute(LEFT, stretch)).fetchone()
    return row[0] if row else 0


def _end_of_hour(end: datetime) -> datetime:
    start = hour_of(end)
    return start if start == end else start + HOUR
