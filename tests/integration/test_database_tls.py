"""PostgreSQL by TLS, with sslmode=verify-full: a server that cannot prove who it is gets nothing, a person a line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from postgres.connecting import connect
from postgres.words import explain, is_lasting
from tests.backends import Database
from tests.certificates import NEEDS_OPENSSL, make_authority, sign
from tests.databases import a_database
from tests.pgbouncer import pgbouncer
from wattline.cli import main

pytestmark = NEEDS_OPENSSL


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder)
    make_authority(folder, "stranger")
    sign(folder, "server", "IP:127.0.0.1")
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, postgres_server: Database, certificates: Path) -> Iterator[str]:
    """Of a database behind TLS: the embedded PostgreSQL is built without, so a PgBouncer before it speaks it."""
    more = "client_tls_sslmode = require\nclient_tls_cert_file = server.pem\nclient_tls_key_file = server.key"
    files = {name: (certificates / name).read_text() for name in ("server.pem", "server.key")}
    folder = tmp_path_factory.mktemp("tls") / "pgbouncer"
    with a_database(postgres_server) as behind, pgbouncer(folder, behind, "session", more, files) as through:
        yield through


def verified(url: str, authority: Path, **changes: str) -> str:
    return make_conninfo(url, sslmode="verify-full", sslrootcert=str(authority), **changes)


def test_who_proves_who_it_is_is_spoken_to_by_tls(url: str, certificates: Path) -> None:
    async def story() -> None:
        session = await connect(verified(url, certificates / "ca.pem"), autocommit=True)
        async with session:
            assert session.pgconn.ssl_in_use
            # A session that is silent can be given up, by TLS too.
            sleeping = asyncio.create_task(session.execute("SELECT pg_sleep(60)"))
            await asyncio.sleep(0)
            began = time.monotonic()
            asyncio.get_running_loop().call_later(0.1, session.hang_up)
            with pytest.raises(psycopg.OperationalError):
                await sleeping
            assert time.monotonic() - began < 30

    asyncio.run(story())


def test_whoever_cannot_is_refused_with_a_line(
    url: str, postgres_server: Database, certificates: Path, tmp_path: Path
) -> None:
    ca = certificates / "ca.pem"
    plain = postgres_server.url_of("postgres")  # no TLS: what a stranger in between would offer
    for asked, said in (
        (verified(url, certificates / "stranger.pem"), "its certificate is not by an authority of sslrootcert"),
        (verified(url, ca, host="localhost"), 'its certificate is for "127.0.0.1", and we look for "localhost"'),
        (verified(plain, ca), "it offers no TLS, and sslmode asks for it"),
        (verified(url, tmp_path / "none.pem"), f'the file "{tmp_path}/none.pem" of sslrootcert is not there'),
    ):
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(asked, connect_timeout=10)
        assert said in explain(caught.value, "here")
        assert is_lasting(caught.value), "a person has to change something"


def test_a_command_takes_it_from_its_settings(
    url: str,
    certificates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", verified(url, certificates / "ca.pem"))
    assert main(["migrate"]) == 0
    monkeypatch.setenv("DATABASE_URL", verified(url, certificates / "stranger.pem"))
    assert main(["migrate"]) == 1
    assert "its certificate is not by an authority of sslrootcert" in capsys.readouterr().err
