"""What the tests of faults share: an ingestor, devices, and a look into the database from outside."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.backends import Broker
from tests.devices import Device, device
from tests.fake_broker import FakeBroker, Session
from tests.processes import WattlineProcess
from tests.waiting import wait_until_async

Sql = Callable[..., list[Any]]


@pytest.fixture
def publisher(broker: Broker) -> Iterator[Device]:
    """A device connected to the broker."""
    with device(broker.port) as one:
        yield one


@pytest.fixture
def sql(database_url: str) -> Iterator[Sql]:
    """`sql(query, *parameters)`: the rows, from a session of its own, each statement a transaction."""
    with psycopg.connect(database_url, autocommit=True) as connection:

        def execute(query: str, *parameters: Any) -> list[Any]:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

        yield execute


@pytest.fixture
def owner_url(database_url: str, sql: Sql) -> Iterator[str]:
    """The database for an ordinary user who owns it: a superuser cannot be refused anything."""
    role, parts = f"owner_{uuid.uuid4().hex}", urlsplit(database_url)
    sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    sql(f"ALTER DATABASE {parts.path[1:]} OWNER TO {role}")
    yield parts._replace(netloc=f"{role}:secret@127.0.0.1:{parts.port}", query="").geturl()
    sql(f"REASSIGN OWNED BY {role} TO CURRENT_USER")
    sql(f"DROP OWNED BY {role}")
    sql(f"DROP ROLE {role}")


@pytest.fixture
def ingest_from(
    start_wattline: Callable[..., WattlineProcess], database_url: str
) -> Callable[..., Awaitable[tuple[WattlineProcess, Session]]]:
    """Starts an ingestor of a fake broker, with settings; it is given with its connection there, once subscribed."""

    async def start(broker: FakeBroker, **settings: str) -> tuple[WattlineProcess, Session]:
        ingestor = start_wattline(
            "ingest", DATABASE_URL=database_url, MQTT_URL=f"mqtt://127.0.0.1:{broker.port}", **settings
        )
        await wait_until_async(lambda: "metrics and health" in ingestor.output())
        return ingestor, await broker.subscribed()

    return start


@pytest.fixture
def start_ingestor(
    start_wattline: Callable[..., WattlineProcess], database_url: str, broker: Broker
) -> Callable[..., WattlineProcess]:
    """`start_ingestor(FLUSH_INTERVAL_MS="50", ...)`: an ingestor that is ready."""

    def start(**settings: str) -> WattlineProcess:
        process = start_wattline("ingest", **{"DATABASE_URL": database_url, "MQTT_URL": broker.url} | settings)
        process.wait_ready()
        return process

    return start
