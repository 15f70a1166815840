"""What a database needs before readings are stored: the newest schema, tables of every kind, the roles.

The owner of the tables brings it there. Anybody else only looks, and waits for the owner's `wattline migrate`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor.schema.catalogue import check_kinds
from ingestor.schema.cluster_roles import let_api_role_reach_workers
from ingestor.schema.distribution import DISTRIBUTED, spread_tables
from ingestor.schema.migrate import BehindError, known_migrations, may_migrate, migrate, missing_migrations
from ingestor.schema.roles import provide_roles
from postgres.spread import has_citus

logger = logging.getLogger(__name__)


Spread: TypeAlias = Callable[[AsyncConnection[TupleRow]], Awaitable[list[str]]]
"""Spreads tables over a cluster: `distribution.distribute`."""


async def bring_up_to_date(connection: AsyncConnection[TupleRow], label: str, spread: Spread | None = None) -> None:
    """Do it, and say what was done and what only a person can do. `label` is the database's name in the log.

    `spread` comes before the rights, which Citus hands on; without it, what a cluster lacks is still told.
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
    if not owns:
        return
    if spread is not None:
        for table in await spread(connection):
            logger.info("spread %s over the cluster", table)
    problems = [await provide_roles(connection), *await _of_cluster(connection)]
    for problem in filter(None, problems):
        logger.warning("PostgreSQL at %s: %s", label, problem)


async def _of_cluster(connection: AsyncConnection[TupleRow]) -> list[str | None]:
    """What a cluster lacks; nothing on one server."""
    if not has_citus(connection) or not (there := await spread_tables(connection)):
        return []
    missing = ", ".join(sorted(DISTRIBUTED.keys() - there))
    lacks = f"{missing}: on the coordinator alone; run wattline migrate --distributed" if missing else None
    return [await let_api_role_reach_workers(connection), lacks]
