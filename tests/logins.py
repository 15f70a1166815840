"""A server of its own with an owner who is no superuser, and the logins of each part of wattline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from config.logins import Login
from ingestor.schema.logins import provide_logins
from ingestor.schema.partitions import days_ahead, ensure_partitions
from ingestor.schema.up_to_date import bring_up_to_date
from postgres.connecting import connect
from tests.backends import Database, new_database

PASSWORD = "s3cr3t-of-logins"
LOGINS = (
    Login("ingestor", ("ingest",), PASSWORD),
    Login("reader", ("api",), PASSWORD),
    Login("bookkeeper", ("ledger",), PASSWORD),
    Login("watcher", ("monitor",), PASSWORD),
)


@dataclass(frozen=True)
class House:
    """The database `house`, migrated by its owner; no two of its users have the same rights."""

    server: Database

    @property
    def administrator(self) -> str:
        return self.server.url_of("house")

    def url(self, user: str) -> str:
        return make_conninfo(self.server.url_of("house"), user=user, password=PASSWORD)


@contextmanager
def house(folder: Path) -> Iterator[House]:
    """Roles belong to the whole server, and are their maker's to give: hence a server of its own."""
    server = new_database(folder)
    server.start()
    try:
        with psycopg.connect(server.url_of("postgres"), autocommit=True) as administrator:
            administrator.execute(f"CREATE ROLE owner LOGIN CREATEROLE PASSWORD '{PASSWORD}'".encode())
            administrator.execute("CREATE DATABASE house OWNER owner TEMPLATE template0")
        made = House(server)
        asyncio.run(migrated(made.url("owner"), *LOGINS))
        yield made
    finally:
        server.stop()


async def migrated(url: str, *logins: Login) -> None:
    """As `wattline migrate`."""
    async with await connect(url, autocommit=True) as connection:
        await bring_up_to_date(connection, "house")
        await provide_logins(connection, logins)
        await ensure_partitions(connection, days_ahead(datetime.now(UTC)))
