"""`wattline migrate` as a person meets it: what it does, what it says, and that it never says a password."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from analytics_api.probes import schema_version_known
from embedded.ports import free_ports
from ingestor.schema.migrate import known_migrations
from ingestor.schema.partitions import HISTORIES, days_ahead, partition_name
from postgres.connecting import connect
from postgres.words import explain, is_lasting
from tests.api_client import get
from tests.backends import Database
from tests.processes import WattlineProcess, get_status
from tests.proxy import TcpProxy
from tests.waiting import wait_until

pytestmark = pytest.mark.empty_database

StartWattline = Callable[..., WattlineProcess]
SECRET = "s3cr3t-and-more"


def migrate(start_wattline: StartWattline, *options: str, **environment: str) -> tuple[int, str]:
    """Exit status and everything said."""
    process = start_wattline("migrate", *options, **environment)
    return process.wait(), process.output()


def test_it_migrates_makes_the_partitions_and_says_so_once(database_url: str, start_wattline: StartWattline) -> None:
    status, said = migrate(start_wattline, DATABASE_URL=database_url)
    assert status == 0, said
    assert "applied 0001_readings.sql" in said
    assert "daily partitions made: 10" in said
    with psycopg.connect(database_url) as connection:
        attached = {name for (name,) in connection.execute("SELECT inhrelid::regclass::text FROM pg_inherits")}
    assert {partition_name(history, day) for history in HISTORIES for day in days_ahead(datetime.now(UTC))} <= attached
    status, said = migrate(start_wattline, DATABASE_URL=database_url)
    assert status == 0
    assert "applied" not in said
    assert "daily partitions made: 0" in said


def test_it_waits_for_a_database_that_starts_after_it(
    database_url: str,
    postgres_server: Database,
    start_wattline: StartWattline,
    proxy_factory: Callable[[int], TcpProxy],
) -> None:
    proxy = proxy_factory(postgres_server.port)
    proxy.stop()
    process = start_wattline("migrate", DATABASE_URL=make_conninfo(database_url, port=proxy.port))
    wait_until(lambda: "waiting up to 30 s" in process.output(), what="the line that says so")
    proxy.start()
    assert process.wait() == 0
    assert process.output().count("waiting") == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"password": SECRET}, 'the password of user "postgres" is refused; check DATABASE_USERNAME'),
        ({"dbname": "nowhere"}, 'there is no database "nowhere"; create it (createdb)'),
        ({"passfile": "/nonexistent"}, "a password is asked for; set DATABASE_PASSWORD"),
        ({"host": "wattline.invalid", "password": SECRET}, "the host name is unknown; check DATABASE_HOST"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_setting_and_without_the_password(
    database_url: str, start_wattline: StartWattline, changes: dict[str, str], line: str
) -> None:
    status, said = migrate(start_wattline, "--wait", "0", DATABASE_URL=make_conninfo(database_url, **changes))
    assert status == 1
    assert line in said
    assert f"PostgreSQL at {changes.get('host', '127.0.0.1')}:" in said
    assert len(said.splitlines()) == 1, said
    assert SECRET not in said


def test_what_waiting_cannot_help_is_not_waited_for(database_url: str, start_wattline: StartWattline) -> None:
    wrong = make_conninfo(database_url, password=SECRET)
    status, said = migrate(start_wattline, "--wait", "3600", DATABASE_URL=wrong)
    assert status == 1
    assert "waiting" not in said


def test_nobody_listening_is_said_with_host_and_port(start_wattline: StartWattline) -> None:
    (port,) = free_ports(1)
    status, said = migrate(start_wattline, "--wait", "0", DATABASE_PORT=str(port), DATABASE_PASSWORD=SECRET)
    assert status == 1
    assert f"PostgreSQL at localhost:{port}/energy_db: nothing listens there" in said
    assert SECRET not in said


def test_a_user_who_may_not_change_the_schema_is_told_so(database_url: str, start_wattline: StartWattline) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE wattline_guest LOGIN PASSWORD '{SECRET}'".encode())
        try:
            guest = make_conninfo(database_url, user="wattline_guest", password=SECRET)
            status, said = migrate(start_wattline, DATABASE_URL=guest)
        finally:
            connection.execute("DROP ROLE wattline_guest")
    assert status == 1
    assert (
        "there is no schema yet, and user wattline_guest may not make it: run `wattline migrate` as the owner" in said
    )
    assert len(said.splitlines()) == 1, said


def test_a_newer_database_is_one_line(database_url: str, start_wattline: StartWattline, tmp_path: Path) -> None:
    """`migrate` and `ingest` refuse it; the API serves what it can, and is not ready."""
    migrate(start_wattline, DATABASE_URL=database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (9999, '9999_later.sql', 'sum')")
    status, said = migrate(start_wattline, DATABASE_URL=database_url)
    assert status == 1
    assert "the database is newer than this program: it has 9999_later.sql" in said
    assert len(said.splitlines()) == 1, said
    ingestor = start_wattline("ingest", DATABASE_URL=database_url)
    assert ingestor.wait() == 1
    assert "the database is newer than this program: it has 9999_later.sql" in ingestor.output()
    assert "Traceback" not in ingestor.output()
    api = start_wattline("api", DATABASE_URL=database_url)
    wait_until(lambda: get_status(f"{api.http_url}/healthz") == 200, what="the API")
    answer = get(f"{api.http_url}/readyz")
    assert answer.status_code == 503
    assert "newer than this program" in answer.json()["message"]


def test_a_database_of_another_encoding_is_refused_by_everybody_in_one_line(
    make_database: Callable[..., str], start_wattline: StartWattline
) -> None:
    url = make_database(encoding="LATIN1")
    line = "the database's encoding is LATIN1, and UTF8 is needed"
    for command in ("migrate", "ingest"):
        process = start_wattline(command, DATABASE_URL=url)
        assert process.wait() == 1
        assert process.output().count(line) == 1
        assert "createdb --template=template0 --encoding=UTF8" in process.output()
        assert "Traceback" not in process.output()
    api = start_wattline("api", DATABASE_URL=url)
    wait_until(lambda: line in api.output(), what="the line that says so")
    assert get_status(f"{api.http_url}/healthz") == 200
    assert get_status(f"{api.http_url}/readyz") == 503


def test_the_api_knows_the_newest_migration() -> None:
    assert known_migrations()[-1].version == schema_version_known()


@pytest.mark.parametrize("seconds", ["soon", "-1", "nan", "inf"])
def test_a_bad_wait_is_bad_usage(start_wattline: StartWattline, seconds: str) -> None:
    status, said = migrate(start_wattline, f"--wait={seconds}")
    assert status == 2
    assert f"--wait: '{seconds}' is not a number from 0 to 86,400" in said


def test_a_session_works_in_utc_under_its_name_and_notices_a_dead_server(database_url: str) -> None:
    async def shown() -> list[str]:
        theirs = make_conninfo(database_url, options="-c TimeZone=Asia/Kolkata -c work_mem=5MB", keepalives_idle="7")
        async with await connect(theirs, autocommit=True, application_name="wattline test") as connection:
            names = ("TimeZone", "work_mem", "application_name")
            cursor = [await connection.execute("SELECT current_setting(%s)", [name]) for name in names]
            return [*[(await each.fetchone() or ("",))[0] for each in cursor], connection.info.dsn]

    zone, work_mem, name, dsn = asyncio.run(shown())
    assert (zone, work_mem, name) == ("UTC", "5MB", "wattline test")
    assert "keepalives_idle=7" in dsn
    assert "tcp_user_timeout=25000" in dsn


def test_a_server_that_never_answers_is_given_up(
    database_url: str, postgres_server: Database, proxy_factory: Callable[[int], TcpProxy]
) -> None:
    proxy = proxy_factory(postgres_server.port)
    proxy.blackhole()

    async def attempt() -> None:
        async with await connect(make_conninfo(database_url, port=proxy.port, connect_timeout="2")):
            pass

    with pytest.raises(psycopg.OperationalError) as caught:
        asyncio.run(attempt())
    assert explain(caught.value, "db:1/x") == "PostgreSQL at db:1/x: it does not answer in time"
    assert not is_lasting(caught.value)


def test_an_unknown_failure_is_passed_on_in_one_line() -> None:
    said = (
        'connection failed: connection to server at "10.0.0.1", port 1 failed: FATAL:  sorry, too many clients\n'
        "and more that nobody asked for"
    )
    assert explain(psycopg.OperationalError(said), "db:1/x") == "PostgreSQL at db:1/x: sorry, too many clients"
