"""A database as RDS, Azure or Cloud SQL hands it out: its owner is no superuser, and may or may not make roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.api_client import get
from tests.api_process import running_api
from tests.backends import Broker, Database, new_database
from tests.processes import WattlineProcess

StartWattline = Callable[..., WattlineProcess]
PASSWORD = "s3cr3t-of-owners"
ACTS = "the API acts as the role wattline_api"
ROLES = "wattline_ingest, wattline_api, wattline_ledger, wattline_monitor"
HAS_ALL_RIGHTS = "the API has all rights of its database user"


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Database]:
    """A server of its own: roles belong to the whole server, and here nobody has made wattline_api yet."""
    server = new_database(tmp_path / "managed")
    server.start()
    yield server
    server.stop()


def database_of(server: Database, owner: str, rights: str) -> str:
    """A database whose owner is a new user with these rights; its URL as that user."""
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as administrator:
        administrator.execute(f"CREATE ROLE {owner} LOGIN {rights} PASSWORD '{PASSWORD}'".encode())
        administrator.execute(f"CREATE DATABASE of_{owner} OWNER {owner} TEMPLATE template0".encode())
    return make_conninfo(server.url_of(f"of_{owner}"), user=owner, password=PASSWORD)


def migrate(start_wattline: StartWattline, url: str) -> tuple[int, str]:
    process = start_wattline("migrate", DATABASE_URL=url)
    return process.wait(), process.output()


def what_the_api_says(folder: Path, url: str) -> str:
    """Its log, after it has served."""
    with running_api(folder, url) as api:
        assert get(f"{api.http_url}/v1/telemetry/meter").json() == {
            "success": True,
            "data": [],
            "nextCursor": None,
        }
        return api.output()


def test_owners_without_superuser(managed: Database, start_wattline: StartWattline, tmp_path: Path) -> None:
    plain = database_of(managed, "plain", "NOCREATEROLE")
    status, said = migrate(start_wattline, plain)
    assert status == 0
    assert f"the roles {ROLES} are not provided: user plain may not create roles" in said
    assert "can run: CREATE ROLE wattline_ingest NOLOGIN; CREATE ROLE wattline_api NOLOGIN; " in said
    assert "; GRANT wattline_api TO plain; then run `wattline migrate` again" in said
    assert HAS_ALL_RIGHTS in what_the_api_says(tmp_path, plain)

    creator = database_of(managed, "creator", "CREATEROLE")
    status, said = migrate(start_wattline, creator)
    assert status == 0
    assert "not provided" not in said
    assert ACTS in what_the_api_says(tmp_path, creator)
    assert "not provided" not in migrate(start_wattline, creator)[1], "the second time there is nothing to do"

    # Now the role is there, and somebody else's.
    status, said = migrate(start_wattline, plain)
    assert status == 0
    assert "user plain may not become it, and somebody else made it. An administrator can run:" in said
    assert HAS_ALL_RIGHTS in what_the_api_says(tmp_path, plain)
    with psycopg.connect(managed.url_of("postgres"), autocommit=True) as administrator:
        administrator.execute("GRANT wattline_api TO plain WITH SET FALSE")
    assert HAS_ALL_RIGHTS in what_the_api_says(tmp_path, plain), "a member that may not become the role"
    with psycopg.connect(managed.url_of("postgres"), autocommit=True) as administrator:
        administrator.execute("GRANT wattline_api TO plain WITH SET TRUE")
    assert "not provided" not in migrate(start_wattline, plain)[1]
    assert ACTS in what_the_api_says(tmp_path, plain)
    assert PASSWORD not in said


def test_an_owner_of_a_schema_alone(managed: Database, broker: Broker, start_wattline: StartWattline) -> None:
    """Who may not create the extension is told what an administrator has to do, and goes on from there."""
    with psycopg.connect(managed.url_of("postgres"), autocommit=True) as administrator:
        administrator.execute(f"CREATE ROLE tenant LOGIN PASSWORD '{PASSWORD}'".encode())
        administrator.execute("CREATE DATABASE shared TEMPLATE template0")
    with psycopg.connect(managed.url_of("shared"), autocommit=True) as administrator:
        administrator.execute("CREATE SCHEMA tenant AUTHORIZATION tenant")
    url = make_conninfo(managed.url_of("shared"), user="tenant", password=PASSWORD)
    status, said = migrate(start_wattline, url)
    assert status == 1
    assert (
        'permission denied to create extension "btree_gist"; let an administrator run CREATE EXTENSION btree_gist'
        in said
    )
    with psycopg.connect(managed.url_of("shared"), autocommit=True) as administrator:
        administrator.execute("CREATE EXTENSION btree_gist")
    assert migrate(start_wattline, url)[0] == 0
    ingestor = start_wattline("ingest", DATABASE_URL=url, MQTT_URL=broker.url)
    ingestor.wait_ready()
    assert ingestor.output().count(f"the roles {ROLES} are not provided: user tenant may not create roles") == 1
