"""Before anything is ingested: wait for the database, bring its schema up to date, and ask what it remembers of us."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg

from config.seldom import Once
from config.settings import Settings
from ingestor.clock_watch import ClockWatch
from ingestor.schema.migrate import BehindError
from ingestor.schema.partitions import days_ahead, ensure_partitions
from ingestor.schema.up_to_date import bring_up_to_date
from ingestor.subscription import Remembered, remembered
from postgres.connecting import connect
from postgres.fitness import UnfitError
from postgres.trouble import trouble_with
from postgres.words import explain

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


async def prepare_database(
    settings: Settings, clock_watch: ClockWatch, on_trouble: Callable[[str], None]
) -> Remembered:
    """Wait as long as it takes; `on_trouble` hears what it is waiting for, in words that anybody may read.

    Raises MigrationError or UnfitError for what only a person can mend.
    """
    said = Once()
    while True:
        try:
            return await _prepared(settings, clock_watch)
        except UnfitError:
            raise
        except BehindError as error:
            on_trouble("the database waits for wattline migrate")
            if said.is_new(str(error)):
                logger.warning("PostgreSQL at %s: %s; waiting for it", settings.database_label, error)
        except psycopg.Error as error:
            on_trouble(f"the database {trouble_with(error)}")
            if said.is_new(problem := explain(error, settings.database_label)):
                logger.warning("%s; waiting for it", problem)
        await asyncio.sleep(RETRY_SECONDS)


async def _prepared(settings: Settings, clock_watch: ClockWatch) -> Remembered:
    connection = await connect(settings.database_conninfo, autocommit=True, application_name="wattline ingest start")
    async with connection:
        await bring_up_to_date(connection, settings.database_label)
        await clock_watch.agreed(judged_by_clock=False)
        await ensure_partitions(connection, days_ahead(datetime.fromtimestamp(clock_watch.clocks.now(), UTC)))
        return await remembered(connection, settings.mqtt_client_id)
