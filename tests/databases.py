"""Databases of their own for tests: empty ones, and copies of one that was migrated once a server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import psycopg

from ingestor.schema.migrate import migrate
from ingestor.schema.roles import provide_roles
from postgres.connecting import connect
from tests.backends import Database


@contextmanager
def a_database(server: Database, template: str = "template0", how: str = "") -> Iterator[str]:
    """The URL of a fresh database on a running server; gone afterwards, whoever is still connected."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as connection:
        # Copied as files it takes two thirds of the CPU time that it takes through the log.
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy {how}".encode())
    try:
        yield server.url_of(name)
    finally:
        with psycopg.connect(server.url_of("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@cache
def migrated_template(server: Database) -> str:
    """The name of a database with the schema and the roles' rights, to be copied: to migrate takes much longer."""
    name = "migrated"
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
        asyncio.run(bring_up_to_date(server.url_of(name)))
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
    return name


async def bring_up_to_date(url: str) -> None:
    """Schema and roles, as `wattline migrate` provides them, without the partitions of any day."""
    async with await connect(url, autocommit=True) as connection:
        await migrate(connection)
        await provide_roles(connection)
