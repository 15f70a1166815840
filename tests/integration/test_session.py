"""A session sets what we rely on, whatever its server's owner made the default of the database or of the user."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from ingestor.schema.migrate import migrate
from postgres.connecting import Session, connect, connect_blocking
from postgres.fitness import UnfitError
from postgres.session import Limits
from postgres.words import explain, is_lasting
from tests.backends import Database

# Every default that changes what our statements mean, each set to what nobody would choose for us. The limits hold
# until our first statement has run: shorter than a story takes, and longer than a connect beside a busy process.
ODD_DEFAULTS = {
    "client_encoding": "LATIN1",
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "exit_on_error": "on",
    "idle_session_timeout": "4s",
    "statement_timeout": "400ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "400ms",
    "synchronous_commit": "off",
    "search_path": "odd, pg_temp, pg_catalog",
    "client_min_messages": "error",
}


@contextmanager
def as_administrator(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(
        url, autocommit=True, options="-c statement_timeout=0 -c search_path=pg_catalog"
    ) as connection:
        yield connection


def set_defaults(url: str, defaults: dict[str, str]) -> None:
    with as_administrator(url) as connection:
        database = sql.Identifier(connection.info.dbname)
        for name, value in defaults.items():
            values = sql.SQL(", ").join(map(sql.Literal, value.split(", ") if name == "search_path" else [value]))
            connection.execute(sql.SQL("ALTER DATABASE {} SET {} TO {}").format(database, sql.SQL(name), values))


async def shown(session: Session, names: Iterator[str]) -> dict[str, str]:
    values = {}
    for name in names:
        row = await (await session.execute("SELECT current_setting(%s)", [name])).fetchone()
        values[name] = row[0] if row else ""
    return values


def test_every_default_is_set_that_we_rely_on(database_url: str) -> None:
    async def story() -> dict[str, str]:
        async with await connect(database_url, limits=Limits(7_000, 8_000, 9_000)) as session:
            return await shown(session, iter(ODD_DEFAULTS))

    set_defaults(database_url, ODD_DEFAULTS)
    assert asyncio.run(story()) == {
        "client_encoding": "UTF8",
        "datestyle": "ISO, YMD",
        "intervalstyle": "postgres",
        "timezone": "UTC",
        "extra_float_digits": "1",
        "bytea_output": "hex",
        "array_nulls": "on",
        "standard_conforming_strings": "on",
        "quote_all_identifiers": "off",
        "transform_null_equals": "off",
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "exit_on_error": "off",
        "idle_session_timeout": "0",
        "statement_timeout": "7s",
        "lock_timeout": "8s",
        "idle_in_transaction_session_timeout": "9s",
        "synchronous_commit": "on",
        "search_path": "public, pg_temp",
        "client_min_messages": "error",  # what is only said is not relied on
    }
    with connect_blocking(database_url) as connection:
        assert connection.execute("SELECT '{NULL}'::text[], now()::text LIKE '2%+00'").fetchone() == ([None], True)


def test_a_stronger_promise_of_the_owner_is_kept(database_url: str) -> None:
    set_defaults(database_url, {"synchronous_commit": "remote_apply", "default_transaction_read_only": "on"})
    with connect_blocking(database_url) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("remote_apply",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
            connection.execute("CREATE TABLE t ()")
    assert "default_transaction_read_only is on for the database or the user" in explain(caught.value, "db")


def schema_of(url: str) -> str:
    """Where an unqualified name of ours is found or made."""
    with connect_blocking(url) as connection:
        row = connection.execute("SELECT current_schema()").fetchone()
    return str(row[0]) if row else ""


@pytest.mark.empty_database
def test_our_tables_are_found_in_the_schema_that_holds_them(database_url: str) -> None:
    """Also by a user with another search_path, and beside tables of the same names that are somebody else's."""

    async def migrated() -> None:
        async with await connect(database_url, autocommit=True) as session:
            await migrate(session)

    with as_administrator(database_url) as connection:
        connection.execute("CREATE SCHEMA metering")
        connection.execute("CREATE SCHEMA theirs")
        connection.execute("CREATE TABLE theirs.meter_status ()")
        connection.execute("CREATE TABLE theirs.schema_migrations (version text)")
    set_defaults(database_url, {"search_path": "metering, public"})
    assert schema_of(database_url) == "metering"
    asyncio.run(migrated())
    for path in ("theirs, public", "public", "", "nowhere", "pg_catalog, information_schema", "pg_temp, metering"):
        set_defaults(database_url, {"search_path": path})
        assert schema_of(database_url) == "metering", path


@pytest.mark.parametrize("path", ["", "nowhere", "pg_catalog", "information_schema, public", "pg_temp"])
def test_new_tables_never_go_into_a_schema_of_the_system(database_url: str, path: str) -> None:
    set_defaults(database_url, {"search_path": path})
    assert schema_of(database_url) == "public"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_character_is_refused(
    postgres_server: Database, make_database: Callable[..., str], encoding: str
) -> None:
    url = make_database(encoding=encoding)
    for attempt in (lambda: asyncio.run(connect(url)), lambda: connect_blocking(url)):
        with pytest.raises(UnfitError) as caught:
            attempt()
        said = explain(caught.value, "db")
        assert said.startswith(f"PostgreSQL at db: the database's encoding is {encoding}, and UTF8 is needed")
        assert "createdb --template=template0 --encoding=UTF8" in said
        assert is_lasting(caught.value)
