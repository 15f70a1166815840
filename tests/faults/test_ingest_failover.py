"""A server that may not be written any more: commits go on within seconds of one that may."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from embedded.account import account_for
from embedded.postgres import PostgresServer
from embedded.postgres_programs import postgres_programs
from tests.devices import Device
from tests.faults.counting import assert_books_balance, assert_stored_once
from tests.faults.load import Load
from tests.metrics import metric
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until

StartIngestor = Callable[..., WattlineProcess]
RESUMED_SECONDS = 20.0

pytestmark = pytest.mark.skipif(
    os.environ.get("TEST_BACKEND") == "containers", reason="pg_basebackup makes the standby of embedded servers"
)


@contextmanager
def running(server: PostgresServer) -> Iterator[PostgresServer]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[PostgresServer]:
    # The standby has each COMMIT before it is answered, so a failover loses none.
    with running(PostgresServer(tmp_path / "primary")) as server:
        yield server


@pytest.fixture
def standby(tmp_path: Path, primary: PostgresServer) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "standby")
    server.folder.mkdir()
    shutil.copy(primary.passfile, server.passfile)
    account = account_for(server.data)
    subprocess.run(
        [
            Path(postgres_programs(account).postgres).with_name("pg_basebackup"),
            f"--dbname=postgresql://postgres:{primary.password}@127.0.0.1:{primary.port}/postgres",
            f"--pgdata={server.data}",
            "--write-recovery-conf",
            "--checkpoint=fast",
        ],
        check=True,
    )
    if account:
        for path in (server.data, *server.data.rglob("*")):
            os.chown(path, account.uid, account.gid)
    with running(server):
        with psycopg.connect(primary.url_of("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            synchronous = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_until(lambda: connection.execute(synchronous).rowcount, what="the standby is synchronous")
        yield server


def test_a_standby_takes_over(
    start_ingestor: StartIngestor, primary: PostgresServer, standby: PostgresServer, publisher: Device
) -> None:
    """Both are named from the start, the standby first: it is never written to before its time."""
    host = urlsplit(primary.url).hostname
    url = f"postgresql://postgres@{host}:{standby.port},{host}:{primary.port}/energy_db?passfile={primary.passfile}"
    ingestor = start_ingestor(DATABASE_URL=url, FLUSH_INTERVAL_MS="50")
    with Load(publisher, 500) as load:
        load.wait_published(500)
        primary.kill()
        load.wait_published(200)
        with psycopg.connect(standby.url, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)
        committed = metric(ingestor, "wattline_readings_committed_total")
        wait_until(
            lambda: metric(ingestor, "wattline_readings_committed_total") > committed, RESUMED_SECONDS, "it goes on"
        )
        published = load.finish(standby.url, 60)
    assert_stored_once(standby.url, published)
    assert assert_books_balance(ingestor) == len(published)
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0


def test_a_server_that_becomes_read_only_and_writable_again(
    start_ingestor: StartIngestor, primary: PostgresServer, publisher: Device
) -> None:
    ingestor = start_ingestor(DATABASE_URL=primary.url, FLUSH_INTERVAL_MS="50")

    def set_read_only(value: str) -> None:
        with psycopg.connect(primary.url_of("postgres"), autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
            connection.execute("SELECT pg_reload_conf()")

    with Load(publisher, 500) as load:
        load.wait_published(200)
        set_read_only("on")
        wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 503, what="not ready")
        assert "read-only transaction" in ingestor.output()
        set_read_only("off")
        wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 200, RESUMED_SECONDS, "ready again")
        published = load.finish(primary.url)
    assert_stored_once(primary.url, published)
    assert metric(ingestor, "wattline_readings_rejected_total") == 0
    assert assert_books_balance(ingestor) == len(published)
