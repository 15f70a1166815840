"""Who may ask the workers of a Citus cluster: the coordinator asks them as the role that a session is, or has become.

So each login, and the role of the API, must be let in there. The coordinator keeps their passwords where only a
superuser may look (pg_dist_authinfo); that of the API's role is made here and never seen. Rights to the tables are
handed on by Citus.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed, Identifier, Literal

from config.logins import Login
from ingestor.schema.distribution import LEADER, spread_tables
from postgres.roles import API_ROLE
from postgres.spread import has_citus
from telemetry.kinds import KINDS

_BECOME = SQL("SET LOCAL ROLE {role}")
# Of every shard; what the role of the monitor may see too.
_ASK = SQL("SELECT count(last_updated) FROM {status}").format(status=Identifier(KINDS[0].status))
_LET_IN = SQL("ALTER ROLE {role} LOGIN PASSWORD {password}")
# Node 0 stands for every node.
_FORGET = SQL("DELETE FROM pg_catalog.pg_dist_authinfo WHERE nodeid = 0 AND rolename = {name}")
_KEEP = SQL("INSERT INTO pg_catalog.pg_dist_authinfo (nodeid, rolename, authinfo) VALUES (0, {name}, {info})")


async def let_api_role_reach_workers(connection: AsyncConnection[TupleRow]) -> str | None:
    """See to it that sessions of the API can ask every worker. What only a person can do, as one line; else None.

    The connection must be in autocommit mode, the tables spread, the roles provided.
    """
    if await _why_not(connection, API_ROLE) is None:
        return None
    password = secrets.token_urlsafe(32)
    verifier = connection.pgconn.encrypt_password(password.encode(), API_ROLE.encode(), b"scram-sha-256").decode()
    let_in = _LET_IN.format(role=Identifier(API_ROLE), password=Literal(verifier))
    return await _let_in(connection, API_ROLE, [let_in, *_kept(API_ROLE, password)])


async def let_logins_reach_workers(connection: AsyncConnection[TupleRow], logins: Sequence[Login]) -> list[str]:
    """The same for the logins of DATABASE_LOGINS, where the tables are spread; a line for each that cannot."""
    if not logins or not has_citus(connection) or LEADER not in await spread_tables(connection):
        return []
    problems = [await _let_in(connection, login.user, _kept(login.user, login.password)) for login in logins]
    return [problem for problem in problems if problem]


async def _let_in(connection: AsyncConnection[TupleRow], role: str, statements: Sequence[Composed]) -> str | None:
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
        why = await _why_not(connection, role)
    except psycopg.Error as error:  # not allowed; a worker that is away; another migration at the same moment
        why = _line(error)
    if why is None:
        return None
    return (
        f"the workers of the cluster do not let in {role}: {why}. Its password has to be in pg_dist_authinfo, written "
        "by a superuser, and each worker's pg_hba.conf needs a line that lets it in from the coordinator "
        "(docs/scaling.md)"
    )


def _kept(role: str, password: str) -> list[Composed]:
    info = make_conninfo(password=password)
    return [_FORGET.format(name=Literal(role)), _KEEP.format(name=Literal(role), info=Literal(info))]


async def _why_not(connection: AsyncConnection[TupleRow], role: str) -> str | None:
    """Why `role` cannot ask all workers; None where it can."""
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute(_BECOME.format(role=Identifier(role)))
            await connection.execute(_ASK)
    except psycopg.Error as error:
        return _line(error)
    return None


def _line(error: psycopg.Error) -> str:
    return " ".join((error.diag.message_primary or str(error)).split())
