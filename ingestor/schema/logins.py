"""Users of PostgreSQL who may log in and have the rights of a part of wattline: those of DATABASE_LOGINS.

Whatever was there is made as it says: password and roles. A password travels and is logged only as its SCRAM verifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composable, Identifier, Literal

from config.logins import Login
from ingestor.schema.migrate import LOCK_TIMEOUT_MS, MigrationError
from postgres.locks import AdvisoryLock, lock_in_transaction
from postgres.roles import API_ROLE, INGEST_ROLE, LEDGER_ROLE, MONITOR_ROLE

ROLE_OF = {"ingest": INGEST_ROLE, "api": API_ROLE, "ledger": LEDGER_ROLE, "monitor": MONITOR_ROLE}

# Whether it is somebody with rights of its own: nobody whose password a slip in a setting may change.
_STANDING = """
    SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR rolname = current_user
        OR EXISTS (SELECT FROM pg_class WHERE relowner = pg_roles.oid)
    FROM pg_roles WHERE rolname = %s"""
_HAS = """
    SELECT role.rolname::text FROM pg_auth_members
    JOIN pg_roles AS role ON role.oid = roleid JOIN pg_roles AS login ON login.oid = member
    WHERE login.rolname = %s AND role.rolname = ANY(%s)"""


async def provide_logins(connection: AsyncConnection[TupleRow], logins: Sequence[Login]) -> None:
    """All of them, or none. The connection must be in autocommit mode, the roles be there. Raises MigrationError."""
    try:
        async with connection.transaction():
            await lock_in_transaction(connection, AdvisoryLock.MIGRATIONS, LOCK_TIMEOUT_MS)
            for login in logins:
                await connection.execute(SQL("; ").join(await _statements(connection, login)))
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject) as error:
        raise MigrationError(
            f"DATABASE_LOGINS: this user may not make them ({error.diag.message_primary}); give it CREATEROLE, or "
            'let an administrator make them: "Roles in PostgreSQL" in docs/operations.md has the statements'
        ) from None


async def _statements(connection: AsyncConnection[TupleRow], login: Login) -> list[Composable]:
    user = Identifier(login.user)
    standing = await (await connection.execute(_STANDING, [login.user])).fetchone()
    if standing == (True,):
        raise MigrationError(
            f"DATABASE_LOGINS: {login.user} is there already and more than a login of wattline (it owns tables, or has "
            "rights of its own); choose another name"
        )
    wanted = {ROLE_OF[role] for role in login.roles}
    had = {role for (role,) in await (await connection.execute(_HAS, [login.user, list(ROLE_OF.values())])).fetchall()}
    # The server keeps this; who reads its log learns no password.
    verifier = connection.pgconn.encrypt_password(
        login.password.encode(), login.user.encode(), b"scram-sha-256"
    ).decode()
    return [
        *([SQL("CREATE ROLE {}").format(user)] if standing is None else []),
        SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(user, Literal(verifier)),
        *(SQL("GRANT {} TO {}").format(Identifier(role), user) for role in sorted(wanted - had)),
        *(SQL("REVOKE {} FROM {}").format(Identifier(role), user) for role in sorted(had - wanted)),
    ]
