"""`wattline migrate`: wait for the database, bring its schema up to date, make logins and the next days' partitions.

It says what it did, and is done at once where there is nothing to do; so it may run before every start.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from datetime import UTC, datetime
from functools import partial

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from config.arguments import number
from config.seldom import Once
from config.settings import Settings
from ingestor.schema.logins import provide_logins
from ingestor.schema.migrate import MigrationError
from ingestor.schema.partitions import days_ahead, ensure_partitions
from ingestor.schema.up_to_date import bring_up_to_date
from postgres.command import run_with_database
from postgres.connecting import connect
from postgres.words import explain, is_lasting

WAIT_SECONDS = 30  # a database container that starts beside us needs a few
WAIT_SECONDS_MAX = 86_400
RETRY_SECONDS = 0.5

logger = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        type=number(0, WAIT_SECONDS_MAX),
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help="how long to wait for a database that is not up yet (default %(default)s; 0 = one attempt)",
    )


def run(args: argparse.Namespace) -> int:
    """See to it that the schema is up to date and its partitions are there. Raises WattlineError."""
    run_with_database(args, partial(_migrate, args.wait))
    return 0


async def _migrate(wait_seconds: float, settings: Settings) -> None:
    label = settings.database_label
    async with await _connect_within(settings, wait_seconds) as connection:
        try:
            await bring_up_to_date(connection, label)
            await provide_logins(connection, settings.logins)
        except MigrationError as error:
            raise MigrationError(f"PostgreSQL at {label}: {error}") from None
        made = await ensure_partitions(connection, days_ahead(datetime.now(UTC)))
    if settings.logins:
        logger.info("logins: %s", ", ".join(f"{each.user} ({', '.join(each.roles)})" for each in settings.logins))
    logger.info("%s: the schema is up to date; daily partitions made: %d", label, len(made))


async def _connect_within(settings: Settings, wait_seconds: float) -> AsyncConnection[TupleRow]:
    """A connection as soon as there is one; waits only for what may pass, and says what it waits for."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_seconds
    said = Once()
    while True:
        try:
            return await connect(settings.database_conninfo, autocommit=True, application_name="wattline migrate")
        except psycopg.OperationalError as error:
            if is_lasting(error) or clock() >= deadline:
                raise
            if said.is_new(problem := explain(error, settings.database_label)):
                logger.warning("%s; waiting up to %g s", problem, wait_seconds)
        await asyncio.sleep(RETRY_SECONDS)
