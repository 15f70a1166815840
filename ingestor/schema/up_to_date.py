"""What a database needs before readings are stored: the newest schema, tables of every kind, the API's role."""

from __future__ import annotations

import logging

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor.schema.api_role import provide_api_role
from ingestor.schema.catalogue import check_kinds
from ingestor.schema.migrate import migrate

logger = logging.getLogger(__name__)


async def bring_up_to_date(connection: AsyncConnection[TupleRow], label: str) -> None:
    """Do it, and say what was done and what only a person can do. `label` is the database's name in the log.

    The connection must be in autocommit mode. Raises MigrationError.
    """
    for name in await migrate(connection):
        logger.info("applied %s", name)
    for table in await check_kinds(connection):
        logger.warning("%s holds readings of a kind that this program does not declare", table)
    if (problem := await provide_api_role(connection)) is not None:
        logger.warning("PostgreSQL at %s: %s", label, problem)
