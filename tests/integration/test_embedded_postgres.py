import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from embedded.errors import EmbeddedError
from embedded.leftovers import find_marked
from embedded.ports import free_ports
from embedded.postgres import PostgresServer
from embedded.postgres_programs import WHEEL, PostgresPrograms, copy_wheel, postgres_programs
from processes.errors import ProcessError
from tests.backends import CopiedPostgres, Database
from tests.ordinary_user import ordinary_user
from tests.waiting import wait_until

START_AND_STAY = """
import sys
from pathlib import Path
from embedded.postgres import PostgresServer
server = PostgresServer(Path(sys.argv[1]))
server.start()
print(server.url, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def server(postgres_factory: Callable[[], Database]) -> PostgresServer:
    made = postgres_factory()
    if not isinstance(made, PostgresServer):
        pytest.skip("containers bring their own way of starting PostgreSQL")
    return made


def _value(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


@pytest.mark.empty_database
def test_each_test_has_an_empty_database(database_url: str) -> None:
    assert _value(database_url, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


def test_what_the_data_and_the_promise_rest_on(tmp_path: Path) -> None:
    server = CopiedPostgres(tmp_path / "postgres")
    wanted = {
        "server_encoding": "UTF8",
        "timezone": "UTC",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "password_encryption": "scram-sha-256",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "wal_compression": "pglz",
        "max_wal_size": "2GB",
    }
    server.start()
    try:
        assert {name: _value(server.url, f"SHOW {name}") for name in wanted} == wanted
    finally:
        server.stop()


def test_the_password_is_needed_and_in_nobodys_way(server: PostgresServer) -> None:
    password = server.passfile.read_text().strip().rpartition(":")[2]
    assert stat.S_IMODE(server.passfile.stat().st_mode) == 0o600
    assert password not in server.url
    assert password not in server.log.read_text()
    for wrong in ("", "x" + password):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(
                f"postgresql://postgres@127.0.0.1:{server.port}/energy_db", password=wrong, passfile=os.devnull
            )


def test_data_and_port_survive_kill_9(server: PostgresServer) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    port = server.port
    server.kill()
    server.start()
    assert server.port == port
    assert _value(server.url, "SELECT x FROM kept") == 42
    server.stop()
    again = PostgresServer(server.folder)
    again.start()
    try:
        assert again.port == port
        assert _value(again.url, "SELECT x FROM kept") == 42
    finally:
        again.stop()


@pytest.mark.parametrize("left", [b"", bytes(5), b"70000", "²".encode()])
def test_a_port_file_that_a_power_cut_left_is_no_obstacle(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "port").write_bytes(left)
    server = PostgresServer(tmp_path)
    server._choose_port()
    assert int((tmp_path / "port").read_text()) == server.port > 0


def test_a_stale_pid_file_that_names_a_living_stranger(server: PostgresServer) -> None:
    server.stop()
    # PostgreSQL itself sees through it where the stranger is another user's, or its own parent.
    owner = server.data.stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "600"], user=owner) as stranger:
        try:
            (server.data / "postmaster.pid").write_text(f"{stranger.pid}\n{server.data}\n")
            server.start()
            assert _value(server.url, "SELECT 1") == 1
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_data_of_another_version_is_refused_in_one_line(server: PostgresServer) -> None:
    server.stop()
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError, match=r"was written by PostgreSQL 9, and this is 18: .*--data-dir"):
        server.start()
    (server.data / "PG_VERSION").write_text("18\n")
    server.start()


@pytest.mark.parametrize("left", [None, b"", bytes(60)])
def test_a_lost_password_file_is_said_in_one_line(server: PostgresServer, left: bytes | None) -> None:
    server.stop()
    server.passfile.unlink()
    if left is not None:
        server.passfile.write_bytes(left)
    with pytest.raises(EmbeddedError, match=r"pgpass, the password of the data beside it, is missing"):
        server.start()


def test_a_start_that_fails_shows_the_end_of_the_log(server: PostgresServer, tmp_path: Path) -> None:
    second = PostgresServer(tmp_path / "second", port=server.port)
    with pytest.raises(ProcessError, match=r"(?s)PostgreSQL ended with status 1; .*second.*Address already in use"):
        second.start()


def test_an_initdb_that_was_killed_is_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "half"
    (folder / "data.draft" / "base").mkdir(parents=True)
    half = PostgresServer(folder)
    half.start()
    half.stop()
    assert not (folder / "data.draft").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such folder")
def test_without_room_in_dev_shm_a_parallel_query_works_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedded.postgres.SHARED_MEMORY", tmp_path / "missing")
    server = PostgresServer(tmp_path, settings={"debug_parallel_query": "on"})
    server.start()
    try:
        assert _value(server.url, "SHOW dynamic_shared_memory_type") == "mmap"
        assert _value(server.url, "SELECT count(*) FROM pg_class WHERE relname = 'pg_class'") == 1
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives the folder to another user")
def test_a_file_system_without_owners_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chown", lambda *_: None)  # what such a file system makes of it
    with pytest.raises(EmbeddedError, match=r"keeps no owners and rights .*, and PostgreSQL needs them: .*--data-dir"):
        PostgresServer(tmp_path / "shared").start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START_AND_STAY, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith(b"postgresql://")
        data = tmp_path / "data"
        assert list(find_marked("postgres", data))
        parent.kill()
    wait_until(lambda: not list(find_marked("postgres", data)), 15, "every process of the server has gone")


def test_a_server_that_outlived_its_parent_is_ended_before_the_next(tmp_path: Path) -> None:
    """As on systems that do not tie it: here it is let loose."""
    first = PostgresServer(tmp_path, port=free_ports(1)[0])
    first.start()
    second = PostgresServer(tmp_path)
    second.start()
    try:
        assert not first.running
        assert _value(second.url, "SELECT 1") == 1
    finally:
        second.stop()


def test_a_session_that_outlived_its_server_is_ended_before_the_next(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot notice that the server has gone still holds its memory, and no other server may start then."""
    monkeypatch.setattr("embedded.leftovers.PATIENCE_SECONDS", 0.5)
    with psycopg.connect(server.url) as connection:
        pid = connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        server.kill()
        assert pid in {process.pid for process in find_marked("postgres", server.data)}
        server.start()
    assert _value(server.url, "SELECT 1") == 1


def test_a_copy_of_the_programs_finds_its_libraries(tmp_path: Path) -> None:
    copy_wheel(postgres_programs(None).folder.parent.parent, tmp_path)
    programs = PostgresPrograms(tmp_path / WHEEL / "pginstall" / "bin")
    assert programs.major_version() == "18"
    assert "18." in subprocess.check_output([programs.psql, "--version"], text=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="everything else here has run as an ordinary user already")
def test_as_an_ordinary_user() -> None:
    user = ordinary_user()
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, user.uid, user.gid)
        command = [user.python, "-c", START_AND_STAY, folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **user.options) as parent:
            assert parent.stdout is not None
            url = parent.stdout.readline().decode().strip()
            assert _value(url, "SELECT current_setting('data_directory')") == f"{folder}/data"
            assert Path(folder, "pgpass").stat().st_uid == user.uid
            parent.communicate(b"", timeout=20)
            assert parent.returncode == 0
