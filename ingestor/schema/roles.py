"""What each part of wattline may do in the database: the roles and their rights, each no more than its part needs.

The owner's `migrate` (or `ingest`, where it connects as the owner) provides them as far as it may, each time, and says
in one line what an administrator would have to do for the rest. Nobody but the owner may make, change or drop a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composable, Composed, Identifier

from ingestor.schema.migrate import LOCK_TIMEOUT_MS
from postgres.locks import AdvisoryLock, lock_in_transaction
from postgres.roles import (
    API_ROLE,
    INGEST_ROLE,
    LEDGER_ROLE,
    MONITOR_ROLE,
    SERVER_KNOWS_MAINTAIN,
    right_to_become,
)
from telemetry.kinds import KINDS

Params: TypeAlias = Sequence[object] | Mapping[str, object]


@dataclass(frozen=True, order=True)
class Right:
    """One word of a GRANT."""

    role: str
    table: str
    privilege: LiteralString
    column: str = ""
    """Empty: the whole table."""


def _rights(role: str, table: str, *privileges: LiteralString, columns: Sequence[str] = ("",)) -> Iterator[Right]:
    for privilege in privileges:
        yield from (Right(role, table, privilege, column) for column in columns)


def _of_ingest() -> Iterator[Right]:
    """Stores readings, and never changes one; keeps status, sums and quarantine. What is annulled it only looks at."""
    for kind in KINDS:
        yield from _rights(INGEST_ROLE, kind.history, "SELECT", "INSERT")
        yield from _rights(INGEST_ROLE, kind.status, "SELECT", "INSERT", "UPDATE")
        yield from _rights(INGEST_ROLE, kind.hourly, "SELECT", "INSERT", "DELETE")
    for table in ("hourly_invalidations", "rejected_messages", "mqtt_subscriptions"):
        yield from _rights(INGEST_ROLE, table, "SELECT", "INSERT", "DELETE")
    replayed = ("replayed_at", "refused_again_at", "reason_code", "reason")
    yield from _rights(INGEST_ROLE, "rejected_messages", "UPDATE", columns=replayed)
    for table in ("hourly_places", "annulments", "annulled_readings", "retention_progress", "schema_migrations"):
        yield from _rights(INGEST_ROLE, table, "SELECT")


def _of_api() -> Iterator[Right]:
    """Reads what answers are made of, and writes the links."""
    for kind in KINDS:
        for table in (kind.history, kind.status, kind.hourly):
            yield from _rights(API_ROLE, table, "SELECT")
    for table in ("hourly_invalidations", "annulments", "annulled_readings", "forgotten_devices", "schema_migrations"):
        yield from _rights(API_ROLE, table, "SELECT")
    yield from _rights(API_ROLE, "vehicle_meter_links", "SELECT", "INSERT", "UPDATE", "DELETE")


def _of_ledger() -> Iterator[Right]:
    """Annuls, restores and forgets: the only one but the owner that takes a reading out of the history."""
    for kind in KINDS:
        yield from _rights(LEDGER_ROLE, kind.history, "SELECT", "INSERT", "DELETE")
        yield from _rights(LEDGER_ROLE, kind.status, "SELECT", "INSERT", "UPDATE", "DELETE")
    yield from _rights(LEDGER_ROLE, "hourly_invalidations", "SELECT", "INSERT")
    yield from _rights(LEDGER_ROLE, "annulments", "SELECT", "INSERT", "UPDATE")
    yield from _rights(LEDGER_ROLE, "annulled_readings", "SELECT", "INSERT", "DELETE")
    yield from _rights(LEDGER_ROLE, "forgotten_devices", "SELECT", "INSERT", "UPDATE")
    yield from _rights(LEDGER_ROLE, "schema_migrations", "SELECT")


def _of_monitor() -> Iterator[Right]:
    """Sees that things go on, and nothing that a device measured or sent."""
    for kind in KINDS:
        seen = (kind.id_column, "last_reading", "last_updated", "usual_interval_seconds")
        yield from _rights(MONITOR_ROLE, kind.status, "SELECT", columns=seen)
    kept = ("id", "received_at", "reason_code", "replayed_at", "refused_again_at", "topic_bytes", "payload_bytes")
    yield from _rights(MONITOR_ROLE, "rejected_messages", "SELECT", columns=kept)
    for table in ("hourly_invalidations", "retention_progress", "schema_migrations"):
        yield from _rights(MONITOR_ROLE, table, "SELECT")


RIGHTS = (*_of_ingest(), *_of_api(), *_of_ledger(), *_of_monitor())
ROLES = tuple(dict.fromkeys(right.role for right in RIGHTS))
MAKES_DAYS = "make_day_partition(regclass, date)"
"""The function that only the ingestor's role may call."""

_THERE = "SELECT array_agg(rolname::text) FROM pg_roles WHERE rolname = ANY(%s)"
_CREATE = SQL("CREATE ROLE {role} NOLOGIN")
# A grant that changes nothing would still write to the catalogue at every start.
_MISSING: LiteralString = """
    SELECT place::int FROM unnest(%(roles)s::text[], %(tables)s::text[], %(privileges)s::text[], %(columns)s::text[])
        WITH ORDINALITY AS wanted (role, name, privilege, of_column, place)
    WHERE NOT CASE of_column
        WHEN '' THEN has_table_privilege(role, quote_ident(name), privilege)
        ELSE has_column_privilege(role, quote_ident(name), of_column, privilege) END"""
_MAY_CALL = f"SELECT has_function_privilege(%s, '{MAKES_DAYS}', 'EXECUTE')"
_MAY_CONNECT = """
    SELECT bool_and(has_database_privilege(role, current_database(), 'CONNECT')) FROM unnest(%s::text[]) AS role"""
_MAY_ENTER = """
    SELECT bool_and(has_schema_privilege(role, current_schema(), 'USAGE')) FROM unnest(%s::text[]) AS role"""
_IS_MEMBER = "SELECT pg_has_role(%s, %s)"
_PLACE = "SELECT current_database()::text, current_schema()::text"
_GRANT_MEMBERSHIP = {
    "MEMBER": SQL("GRANT {role} TO CURRENT_USER"),
    "SET": SQL("GRANT {role} TO CURRENT_USER WITH SET TRUE"),
}


async def provide_roles(connection: AsyncConnection[TupleRow]) -> str | None:
    """Make the roles, give them their rights, and let this user become API_ROLE. What could not be done, as one line.

    The connection must be in autocommit mode, and the schema up to date.
    """
    user = connection.info.user
    refused = [role for role in await _not_there(connection) if not await _allowed(connection, _created(role))]
    there = [role for role in ROLES if role not in refused]
    if there and not await _allowed(connection, *await _grants(connection, there)):
        return _problem(there, f"user {user} does not own the tables", "`wattline migrate` as their owner")
    if API_ROLE in there:
        right = right_to_become(connection.info.server_version)
        membership = _GRANT_MEMBERSHIP[right].format(role=Identifier(API_ROLE))
        if not await _true(connection, _IS_MEMBER, [API_ROLE, right]) and not await _allowed(connection, membership):
            why = f"user {user} may not become it, and somebody else made it"
            return _problem([API_ROLE], why, f"GRANT {API_ROLE} TO {user}")
    if not refused:
        return None
    what = "; ".join(f"CREATE ROLE {role} NOLOGIN" for role in refused)
    if API_ROLE in refused:
        what += f"; GRANT {API_ROLE} TO {user}"
    return _problem(refused, f"user {user} may not create roles", f"{what}; then run `wattline migrate` again")


def _problem(roles: Sequence[str], why: str, what: str) -> str:
    subject = f"the role {roles[0]} is" if len(roles) == 1 else f"the roles {', '.join(roles)} are"
    line = f"{subject} not provided: {why}. An administrator can run: {what}"
    return f"{line}. Until then the API has all rights of its database user" if API_ROLE in roles else line


def _created(role: str) -> Composed:
    return _CREATE.format(role=Identifier(role))


async def _not_there(connection: AsyncConnection[TupleRow]) -> list[str]:
    row = await (await connection.execute(_THERE, [list(ROLES)])).fetchone()
    return [role for role in ROLES if not row or role not in (row[0] or ())]


async def _grants(connection: AsyncConnection[TupleRow], roles: Sequence[str]) -> list[Composable]:
    """The GRANTs that are missing."""
    wanted = [right for right in RIGHTS if right.role in roles]
    if INGEST_ROLE in roles and connection.info.server_version >= SERVER_KNOWS_MAINTAIN:
        wanted += _rights(INGEST_ROLE, "rejected_messages", "MAINTAIN")
    columns = {
        "roles": [right.role for right in wanted],
        "tables": [right.table for right in wanted],
        "privileges": [right.privilege for right in wanted],
        "columns": [right.column for right in wanted],
    }
    places = await (await connection.execute(_MISSING, columns)).fetchall()
    grants: list[Composable] = [_grant(wanted[place - 1]) for (place,) in places]
    database, schema = await (await connection.execute(_PLACE)).fetchone() or ("", "")
    to = SQL(", ").join(map(Identifier, roles))
    if not await _true(connection, _MAY_CONNECT, [list(roles)]):
        grants.append(SQL("GRANT CONNECT ON DATABASE {} TO {}").format(Identifier(database), to))
    if not await _true(connection, _MAY_ENTER, [list(roles)]):
        grants.append(SQL("GRANT USAGE ON SCHEMA {} TO {}").format(Identifier(schema), to))
    if INGEST_ROLE in roles and not await _true(connection, _MAY_CALL, [INGEST_ROLE]):
        grants.append(SQL("GRANT EXECUTE ON FUNCTION " + MAKES_DAYS + " TO {}").format(Identifier(INGEST_ROLE)))
    return grants


def _grant(right: Right) -> Composed:
    columns = SQL("({})").format(Identifier(right.column)) if right.column else SQL("")
    return SQL("GRANT {privilege} {columns} ON {table} TO {role}").format(
        privilege=SQL(right.privilege), columns=columns, table=Identifier(right.table), role=Identifier(right.role)
    )


async def _allowed(connection: AsyncConnection[TupleRow], *statements: Composable) -> bool:
    """Run them, as one; False, and nothing done, where the user may not."""
    if not statements:
        return True
    try:
        async with connection.transaction():
            # Two who grant at the same moment would fail over the same row of the catalogue.
            await lock_in_transaction(connection, AdvisoryLock.MIGRATIONS, LOCK_TIMEOUT_MS)
            await connection.execute(SQL("; ").join(statements))
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        return True  # another database's migration made the role at the same moment
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


async def _true(connection: AsyncConnection[TupleRow], query: LiteralString, parameters: Params) -> bool:
    return await (await connection.execute(query, parameters)).fetchone() == (True,)
