"""Chaos of neighbours: whatever happens beside them, every good reading is stored once and the books balance.

Each seed is a random order of neighbours, two at a time. Every neighbour is in one of the orders. To look for more:
CHAOS_SEEDS="7 8 9" ./dev test tests/faults/test_neighbours.py
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.backends import Broker
from tests.devices import Device, device
from tests.faults.counting import assert_books_balance, assert_stored_once
from tests.faults.load import Load
from tests.faults.neighbours import NEIGHBOURS, Field, a_lock_on_quarantine
from tests.processes import WattlineProcess
from tests.proxy import TcpProxy

pytestmark = pytest.mark.empty_database

SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", "1 2").split()]
# Readings between two neighbours, and how many of those are at work at a time.
BETWEEN = 200
AT_A_TIME = 2
STRANGERS = ("VICTIM", "CLOCK", "HALF-BAD")


@pytest.fixture
def role(database_url: str) -> Iterator[str]:
    """Whom the ingestor connects as: the owner of the database, and no superuser. Ends with the database."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        database = connection.info.dbname
        name = f"owner_of_{database}"
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'chaos'".encode())
        connection.execute("CREATE EXTENSION btree_gist")
        connection.execute(f"ALTER DATABASE {database} OWNER TO {name}".encode())
        connection.execute(f"ALTER SCHEMA public OWNER TO {name}".encode())
        yield name
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [name])
        connection.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER".encode())
        connection.execute(f"DROP OWNED BY {name}".encode())
        connection.execute(f"DROP ROLE {name}".encode())


@pytest.fixture
def field(
    role: str,
    database_url: str,
    broker: Broker,
    proxy_factory: Callable[[int], TcpProxy],
    start_wattline: Callable[..., WattlineProcess],
) -> Iterator[Field]:
    parts = urlsplit(database_url)
    network = proxy_factory(parts.port or 0)
    with psycopg.connect(database_url, autocommit=True) as owner, device(broker.port) as stranger:
        url = f"postgresql://{role}:chaos@127.0.0.1:{network.port}{parts.path}"
        settings = {"FLUSH_INTERVAL_MS": "20", "FLUSH_TIMEOUT_SECONDS": "5"}
        ingestor = start_wattline("ingest", DATABASE_URL=url, MQTT_URL=broker.url, **settings)
        ingestor.wait_ready()
        yield Field(owner, database_url, role, broker, stranger, ingestor, network)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_good_readings_do_not_notice(field: Field, publisher: Device, database_url: str, seed: int) -> None:
    field.rng.seed(seed)
    order = list(NEIGHBOURS)
    field.rng.shuffle(order)
    with Load(publisher, 300) as load:
        load.wait_published(BETWEEN)
        for begin in range(0, len(order), AT_A_TIME):
            with ExitStack() as stack:
                # Whoever locks comes last, or the administrator would wait for a lock of the test's own.
                for neighbour in sorted(order[begin : begin + AT_A_TIME], key=lambda one: one is a_lock_on_quarantine):
                    print(f"seed {seed}: {neighbour.__name__}")  # noqa: T201 - what pytest shows of a failure
                    stack.enter_context(neighbour(field))
                load.wait_published(BETWEEN, 60)
        published = load.finish(database_url, 60)
    with psycopg.connect(database_url, autocommit=True) as connection:
        for table, column in (("meter", "meter_id"), ("vehicle", "vehicle_id")):
            for name in (f"{table}_readings_history", f"{table}_status"):
                connection.execute(f"DELETE FROM {name} WHERE {column} = ANY(%s)".encode(), [list(STRANGERS)])
    assert_stored_once(database_url, published, timeout=30)
    field.ingestor.wait_ready()
    assert_books_balance(field.ingestor)
