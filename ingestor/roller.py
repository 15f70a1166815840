"""The roller as a task of the ingestor: hourly sums are made soon after their hour, and anew after late readings.

It has a connection of its own and never more than half of a database core; its failures are said and tried again, and
never stop the ingest. Several ingestors may run one each: a lock lets one work at a time.
"""

from __future__ import annotations

import asyncio
import logging

import psycopg

from config.settings import Settings
from ingestor.hourly import roll
from postgres.connecting import connect
from postgres.words import explain

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
# A stream of late readings makes the same hours invalid again and again: summing them may take a tenth of the time.
REST_FACTOR = 10.0
PROBLEM_SECONDS = 30.0


async def keep_rolled(settings: Settings) -> None:
    """Until cancelled."""
    said = ""
    while True:
        try:
            connection = await connect(
                settings.database_conninfo, autocommit=True, application_name="wattline hourly sums"
            )
            async with connection:
                while True:
                    started = asyncio.get_running_loop().time()
                    rolled = await roll(connection)
                    said = ""
                    took = asyncio.get_running_loop().time() - started
                    behind = rolled is not None and rolled.more
                    await asyncio.sleep(took if behind else max(LOOK_SECONDS, REST_FACTOR * took))
        except psycopg.Error as error:
            problem = explain(error, settings.database_label)
            if problem != said:
                logger.warning("hourly sums: %s; trying again", problem)
                said = problem
            await asyncio.sleep(PROBLEM_SECONDS)
