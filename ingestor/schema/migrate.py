"""Brings the database schema up to date: the numbered SQL files of this folder, each applied once, in order.

A file and its row in `schema_migrations` are one transaction under an advisory lock, so several processes may start at
once and a kill in the middle leaves nothing half done. It must never run on a schema that it does not know: a file
that was edited after it was applied, or a newer program's database, is an error. Why no library: docs/adr/0001.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from config.errors import WattlineError
from postgres.locks import AdvisoryLock, lock_in_transaction

SERVER_VERSION_MIN = 14  # the first with DETACH PARTITION ... CONCURRENTLY, which retention needs
# A migration that waits for a lock keeps everyone behind it waiting as well, flushes included.
LOCK_TIMEOUT_MS = 10_000

_FILE_NAME = re.compile(r"(\d{4})_\w+\.sql")
_CREATE_TABLE = """
    CREATE TABLE schema_migrations (
        version    int         PRIMARY KEY,
        name       text        NOT NULL,
        checksum   text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )"""


# Where there is no schema yet, whoever may create tables becomes its owner.
_MAY_MIGRATE = """
    SELECT coalesce(
        (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('schema_migrations')),
        has_schema_privilege(current_schema(), 'CREATE'), false)"""


class MigrationError(WattlineError):
    """The schema cannot be brought up to date and waiting does not help; the message is one line for a person."""


class BehindError(MigrationError):
    """The schema is older than this program, and our user does not own it: it is worth waiting for the owner."""


@dataclass(frozen=True)
class Migration:
    """One numbered file: `0001_readings.sql` is version 1."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text; a checkout with other line ends is the same migration."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known_migrations() -> list[Migration]:
    """The migrations that came with this program, in order."""
    folder = files("ingestor.schema")
    return [
        Migration(int(match[1]), entry.name, entry.read_text(encoding="utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if (match := _FILE_NAME.fullmatch(entry.name))
    ]


async def migrate(connection: AsyncConnection[TupleRow]) -> list[str]:
    """Apply what is missing; return the names of the files applied, in order.

    The connection must be outside a transaction. Raises MigrationError, psycopg.OperationalError where a later attempt
    may succeed, and psycopg.errors.InsufficientPrivilege where the user may not change the schema.
    """
    if connection.info.server_version < SERVER_VERSION_MIN * 10_000:
        raise MigrationError(
            f"PostgreSQL {SERVER_VERSION_MIN} or later is needed; "
            f"this server is version {connection.info.server_version // 10_000}"
        )
    names = []
    while (name := await _apply_next(connection)) is not None:
        names.append(name)
    return names


async def may_migrate(connection: AsyncConnection[TupleRow]) -> bool:
    """Whether our user owns the schema, or may make it where there is none yet."""
    return await (await connection.execute(_MAY_MIGRATE)).fetchone() == (True,)


async def missing_migrations(connection: AsyncConnection[TupleRow]) -> list[str]:
    """The names of the files that are not applied. Raises MigrationError, as `migrate` does."""
    applied, known = await _applied(connection) or {}, known_migrations()
    _check(applied, known)
    return [each.name for each in known if each.version not in applied]


async def _apply_next(connection: AsyncConnection[TupleRow]) -> str | None:
    """Apply the first missing migration and return its name; None when there is none."""
    async with connection.transaction():
        await lock_in_transaction(connection, AdvisoryLock.MIGRATIONS, LOCK_TIMEOUT_MS)
        applied = await _applied(connection)
        known = known_migrations()
        _check(applied or {}, known)
        migration = next((each for each in known if each.version not in (applied or {})), None)
        if migration is None:
            return None
        try:
            if applied is None:
                await connection.execute(_CREATE_TABLE)
            # Bytes without parameters travel as they are: several statements, and no % is special.
            await connection.execute(migration.sql.encode())
            await connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                [migration.version, migration.name, migration.checksum],
            )
        except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege):
            raise
        except psycopg.Error as error:
            said = error.diag.message_primary or str(error)
            raise MigrationError(f"migration {migration.name} failed and changed nothing: {said}") from error
    return migration.name


async def _applied(connection: AsyncConnection[TupleRow]) -> dict[int, tuple[str, str]] | None:
    """(name, checksum) of the applied migrations by version; None if the database has never seen one."""
    cursor = await connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
    if await cursor.fetchone() != (True,):
        return None
    cursor = await connection.execute("SELECT version, name, checksum FROM schema_migrations ORDER BY version")
    return {version: (name, checksum) for version, name, checksum in await cursor.fetchall()}


def _check(applied: dict[int, tuple[str, str]], known: list[Migration]) -> None:
    """Raises MigrationError if the database was made by something else than this program or an older one of it."""
    by_version = {migration.version: migration for migration in known}
    for version, (name, checksum) in applied.items():
        migration = by_version.get(version)
        if migration is None:
            raise MigrationError(
                f"the database is newer than this program: it has {name}, this program knows up to {known[-1].name}; "
                "run a newer wattline"
            )
        if migration.checksum != checksum:
            raise MigrationError(
                f"{migration.name} was changed after it was applied to this database; "
                "restore the file and put the change into a new migration"
            )
