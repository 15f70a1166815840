"""The API gives up the rights that it does not need: whatever a bug or an intruder asks, it reads, and writes links."""

from __future__ import annotations

import asyncio
import logging

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from analytics_api.database.questions import Database
from analytics_api.http.errors import UnavailableError
from postgres.roles import API_ROLE
from tests.api_process import prepare

pytestmark = pytest.mark.citus_too

WHO = "SELECT current_user::text"
FORBIDDEN = (
    b"INSERT INTO meter_status VALUES ('M', 1, 230, now(), now())",
    b"UPDATE vehicle_status SET soc = 0",
    b"DELETE FROM meter_readings_history",
    b"INSERT INTO hourly_invalidations VALUES ('meter', now())",
    b"SELECT payload FROM rejected_messages",
    b"DROP TABLE meter_hourly",
    b"CREATE TABLE mine ()",
    b"SELECT rolpassword FROM pg_authid",
)


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_what_it_may_not(database_url: str, statement: bytes) -> None:
    async def forbidden(connection: AsyncConnection[TupleRow]) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(statement)
        raise ValueError("seen")

    async def story() -> None:
        async with Database(database_url, "test") as database:
            with pytest.raises(ValueError, match="seen"):
                await database.write(forbidden)

    prepare(database_url)
    asyncio.run(story())


def test_what_it_may(database_url: str) -> None:
    async def link(connection: AsyncConnection[TupleRow]) -> int:
        await connection.execute("INSERT INTO vehicle_meter_links VALUES ('V', 'M', now())")
        return (await connection.execute("UPDATE vehicle_meter_links SET valid_to = now() + interval '1 day'")).rowcount

    async def story() -> None:
        async with Database(database_url, "test") as database:
            assert await database.row(WHO, {}) == (API_ROLE,)
            assert await database.write(link) == 1

    prepare(database_url)
    asyncio.run(story())


def test_before_the_first_migration_it_says_so_and_becomes_the_role_afterwards(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Roles belong to the whole server, so an earlier test may have made it; the user of this one may not become it."""
    user = "reader_of_everything"

    async def story() -> None:
        async with Database(database_url + f"&user={user}&password=secret", "test") as database:
            assert await database.row(WHO, {}) == (user,)
            assert await database.row(WHO, {}) == (user,)
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute(f"GRANT {API_ROLE} TO {user}".encode())
            assert await database.row(WHO, {}) == (API_ROLE,)

    prepare(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'secret'".encode())
        try:
            with caplog.at_level(logging.INFO, "analytics_api.database"):
                asyncio.run(story())
        finally:
            connection.execute(f"DROP ROLE {user}".encode())
    said = [record.message for record in caplog.records if "rights" in record.message or "acts as" in record.message]
    assert len(said) == 2
    assert said[0].startswith("the API has all rights of its database user")
    assert said[1] == f"the API acts as the role {API_ROLE}"
    assert "secret" not in caplog.text


def test_it_is_the_role_only_where_that_may_read_every_kind(database_url: str) -> None:
    async def story() -> None:
        async with Database(database_url, "test") as database:
            assert await database.row(WHO, {}) != (API_ROLE,)
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute(f"GRANT SELECT ON vehicle_status TO {API_ROLE}".encode())
            assert await database.row(WHO, {}) == (API_ROLE,)

    prepare(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"REVOKE SELECT ON vehicle_status FROM {API_ROLE}".encode())
    asyncio.run(story())


def test_a_refusal_is_not_the_client_s_business(database_url: str) -> None:
    async def story() -> None:
        async with Database(database_url, "test") as database:
            with pytest.raises(UnavailableError, match="could not answer") as caught:
                await database.rows("SELECT payload FROM rejected_messages", {})
            assert "rejected_messages" not in str(caught.value)

    prepare(database_url)
    asyncio.run(story())
