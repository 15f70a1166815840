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

from config.arguments import number, whole_number
from config.errors import UsageError
from config.seldom import Once
from config.settings import Settings
from ingestor.schema.cluster_roles import let_logins_reach_workers
from ingestor.schema.distribution import SHARDS_DEFAULT, SHARDS_MAX, distribute
from ingestor.schema.logins import provide_logins
from ingestor.schema.migrate import MigrationError
from ingestor.schema.partitions import days_ahead, ensure_partitions
from ingestor.schema.up_to_date import Spread, bring_up_to_date
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
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="spread the tables of readings over the workers of a Citus cluster (docs/scaling.md)",
    )
    parser.add_argument(
        "--shards",
        type=whole_number(1, SHARDS_MAX),
        metavar="N",
        help=f"with --distributed: into so many shards (default {SHARDS_DEFAULT}); chosen once",
    )


def run(args: argparse.Namespace) -> int:
    """See to it that the schema is up to date and its partitions are there. Raises WattlineError."""
    if args.shards is not None and not args.distributed:
        raise UsageError("--shards says how --distributed does it, and is nothing by itself")
    spread = partial(distribute, shards=args.shards) if args.distributed else None
    run_with_database(args, partial(_migrate, args.wait, spread))
    return 0


async def _migrate(wait_seconds: float, spread: Spread | None, settings: Settings) -> None:
    label = settings.database_label
    async with await _connect_within(settings, wait_seconds) as connection:
        try:
            await bring_up_to_date(connection, label, spread)
            await provide_logins(connection, settings.logins)
            for problem in await let_logins_reach_workers(connection, settings.logins):
                logger.warning("PostgreSQL at %s: %s", label, problem)
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
