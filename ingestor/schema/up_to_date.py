"""What a database needs before readings are stored: the newest schema, tables of every kind, the roles.

The owner of the tables brings it there. Anybody else only looks, and waits for the owner's `wattline migrate`.
"""

from __future__ import annotations

import logging

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor.schema.catalogue import check_kinds
from ingestor.schema.migrate import BehindError, known_migrations, may_migrate, migrate, missing_migrations
from ingestor.schema.roles import provide_roles

logger = logging.getLogger(__name__)


async def bring_up_to_date(connection: AsyncConnection[TupleRow], label: str) -> None:
    """Do it, and say what was done and what only a person can do. `label` is the database's name in the log.

    The connection must be in autocommit mode. Raises MigrationError; BehindError, which is one, where it is the owner
    who has to do it.
    """
    owns, user = await may_migrate(connection), connection.info.user
    if not owns and (missing := await missing_migrations(connection)):
        there = len(missing) < len(known_migrations())
        what = f"the schema lacks {', '.join(missing)}" if there else "there is no schema yet"
        raise BehindError(
            f"{what}, and user {user} may not make it: run `wattline migrate` as the owner of the tables, or let an "
            "administrator GRANT CREATE ON SCHEMA"
        )
    if owns:
        for name in await migrate(connection):
            logger.info("applied %s", name)
    for table in await check_kinds(connection):
        logger.warning("%s holds readings of a kind that this program does not declare", table)
    if owns and (problem := await provide_roles(connection)) is not None:
        logger.warning("PostgreSQL at %s: %s", label, problem)
