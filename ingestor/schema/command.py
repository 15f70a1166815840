"""`wattline migrate`: wait for the database, bring its schema up to date, make the partitions of the next days.

It says what it did, and is done at once where there is nothing to do; so it may run before every start.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from datetime import UTC, datetime

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from config.logging import configure_logging
from config.settings import Settings, load_settings
from ingestor.schema.api_role import provide_api_role
from ingestor.schema.catalogue import check_kinds
from ingestor.schema.migrate import MigrationError, migrate
from ingestor.schema.partitions import days_ahead, ensure_partitions
from postgres.connecting import connect
from postgres.words import explain, is_lasting

OK, FAILED = 0, 1
WAIT_SECONDS = 30  # a database container that starts beside us needs a few
RETRY_SECONDS = 0.5

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `wattline migrate`."""
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help="how long to wait for a database that is not up yet (default %(default)s; 0 = one attempt)",
    )


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if the schema is up to date and its partitions are there, 1 if not."""
    settings = load_settings(beside_up=True, data_dir=args.data_dir)
    configure_logging(settings.log_level, settings.log_format)
    try:
        asyncio.run(_bring_up_to_date(settings, args.wait))
    except psycopg.Error as error:
        log.error("%s", explain(error, settings.database_label))  # noqa: TRY400 - a person wants a line, no traceback
        return FAILED
    except MigrationError as error:
        log.error("PostgreSQL at %s: %s", settings.database_label, error)  # noqa: TRY400 - same
        return FAILED
    return OK


async def _bring_up_to_date(settings: Settings, wait_seconds: float) -> None:
    connection = await _connect_within(settings, wait_seconds)
    async with connection:
        for name in await migrate(connection):
            log.info("applied %s", name)
        for table in await check_kinds(connection):
            log.warning("%s holds readings of a kind that this program does not declare", table)
        problem = await provide_api_role(connection)
        if problem is not None:
            log.warning("PostgreSQL at %s: %s", settings.database_label, problem)
        made = await ensure_partitions(connection, days_ahead(datetime.now(UTC)))
    log.info("%s: the schema is up to date; daily partitions made: %d", settings.database_label, len(made))


async def _connect_within(settings: Settings, wait_seconds: float) -> AsyncConnection[TupleRow]:
    """A connection as soon as there is one; waits only for what may pass, and says once that it waits."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_seconds
    said = False
    while True:
        try:
            return await connect(settings.database_conninfo, application_name="wattline migrate")
        except psycopg.OperationalError as error:
            if is_lasting(error) or clock() >= deadline:
                raise
            if not said:
                log.warning("%s; waiting up to %g s", explain(error, settings.database_label), wait_seconds)
                said = True
        await asyncio.sleep(RETRY_SECONDS)


def _seconds(text: str) -> float:
    """Argparse's own words follow a ValueError: "invalid _seconds value" would tell nobody anything."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds, 0 or more, not {text!r}")
    return seconds
