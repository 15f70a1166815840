"""The role that the API becomes on every connection: it reads, and writes the links only.

`migrate` and `ingest` provide it as far as their user may, each time, and say in one line what an administrator would
have to do for the rest. Without it the API works with the rights of its own user, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import LiteralString, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed, Identifier

from postgres.role import API_ROLE, right_to_become
from telemetry.kinds import KINDS

Params: TypeAlias = Sequence[object] | Mapping[str, object]

READ = (
    *(table for kind in KINDS for table in (kind.history, kind.status, kind.hourly)),
    "hourly_invalidations",
    "vehicle_meter_links",
    "annulments",
    "annulled_readings",
    "forgotten_devices",
    "schema_migrations",
)
WRITTEN = ("vehicle_meter_links",)

_EXISTS = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)"
_CREATE = SQL("CREATE ROLE {role} NOLOGIN").format(role=Identifier(API_ROLE))
# Whether anything is missing: a grant that changes nothing would still write to the catalogue at every start.
_MAY_USE = """
    SELECT has_schema_privilege(%(role)s, current_schema(), 'USAGE')
       AND (SELECT bool_and(has_table_privilege(%(role)s, name, 'SELECT')) FROM unnest(%(read)s::text[]) AS name)
       AND (SELECT bool_and(has_table_privilege(%(role)s, name, right_to)) FROM unnest(%(written)s::text[]) AS name,
            unnest('{INSERT,UPDATE,DELETE}'::text[]) AS right_to)"""
_IS_MEMBER = "SELECT pg_has_role(%s, %s)"
_GRANT_MEMBERSHIP = {
    "MEMBER": SQL("GRANT {role} TO CURRENT_USER"),
    "SET": SQL("GRANT {role} TO CURRENT_USER WITH SET TRUE"),
}


async def provide_api_role(connection: AsyncConnection[TupleRow]) -> str | None:
    """Make the role, give it its rights, and let this user become it. What could not be done, as one line; else None.

    The connection must be outside a transaction, and the schema up to date.
    """
    user = connection.info.user
    if not await _true(connection, _EXISTS, [API_ROLE]) and not await _allowed(connection, _CREATE):
        return _problem(
            f"user {user} may not create roles", f"CREATE ROLE {API_ROLE} NOLOGIN; GRANT {API_ROLE} TO {user}"
        )
    may_use = {"role": API_ROLE, "read": list(READ), "written": list(WRITTEN)}
    if not await _true(connection, _MAY_USE, may_use) and not await _allowed(connection, *await _grants(connection)):
        return _problem(f"user {user} does not own the tables", "the GRANTs of Access in docs/operations.md")
    right = right_to_become(connection.info.server_version)
    membership = _GRANT_MEMBERSHIP[right].format(role=Identifier(API_ROLE))
    if not await _true(connection, _IS_MEMBER, [API_ROLE, right]) and not await _allowed(connection, membership):
        return _problem(f"user {user} may not become it, and somebody else made it", f"GRANT {API_ROLE} TO {user}")
    return None


def _problem(why: str, what: str) -> str:
    return (
        f"the role {API_ROLE} is not provided: {why}. An administrator can run: {what}. "
        "Until then the API has all rights of its database user"
    )


async def _grants(connection: AsyncConnection[TupleRow]) -> list[Composed]:
    row = await (await connection.execute("SELECT current_schema()")).fetchone()
    names = {
        "role": Identifier(API_ROLE),
        "schema": Identifier(str(row[0]) if row else "public"),
        "read": SQL(", ").join(map(Identifier, READ)),
        "written": SQL(", ").join(map(Identifier, WRITTEN)),
    }
    return [
        SQL("GRANT USAGE ON SCHEMA {schema} TO {role}").format(**names),
        SQL("GRANT SELECT ON {read} TO {role}").format(**names),
        SQL("GRANT INSERT, UPDATE, DELETE ON {written} TO {role}").format(**names),
    ]


async def _allowed(connection: AsyncConnection[TupleRow], *statements: Composed) -> bool:
    """Run them; False, and nothing done, where the user may not."""
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        return True  # another migration made the role at the same moment
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


async def _true(connection: AsyncConnection[TupleRow], query: LiteralString, parameters: Params) -> bool:
    async with connection.transaction():
        return await (await connection.execute(query, parameters)).fetchone() == (True,)
