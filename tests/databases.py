"""Databases of their own for tests: empty ones, and copies of one that was migrated once a server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import psycopg

from ingestor.schema import up_to_date as schema
from ingestor.schema.distribution import distribute
from postgres.connecting import connect
from postgres.spread import has_citus
from tests.backends import Database
from tests.citus import SHARDS, CitusCluster


@contextmanager
def a_database(server: Database, template: str = "template0", how: str = "") -> Iterator[str]:
    """The URL of a fresh database on a running server; gone afterwards, whoever is still connected."""
    name = f"test_{uuid.uuid4().hex}"
    if isinstance(server, CitusCluster):
        with server.database(name, how) as url:
            if template != "template0":
                asyncio.run(bring_up_to_date(url))
            yield url
        return
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
    if isinstance(server, CitusCluster):
        return name  # Citus copies no database: `a_database` migrates each
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
        asyncio.run(bring_up_to_date(server.url_of(name)))
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
    return name


async def bring_up_to_date(url: str) -> None:
    """Schema and roles as `wattline migrate` provides them, spread where there is a cluster; no partitions."""
    async with await connect(url, autocommit=True) as connection:
        spread = partial(distribute, shards=SHARDS) if has_citus(connection) else None
        await schema.bring_up_to_date(connection, "the tests' database", spread)
