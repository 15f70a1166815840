"""The migration runner against a real PostgreSQL: once, in order, by several at once, and never on a stranger."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from ingestor.schema import migrate as runner
from ingestor.schema.migrate import Migration, MigrationError, known_migrations, migrate
from postgres.connecting import connect
from postgres.locks import AdvisoryLock

pytestmark = pytest.mark.empty_database

PROJECT = Path(__file__).parents[2]
ALL = [migration.name for migration in known_migrations()]
CONTRACT_TABLES = {
    "meter_readings_history",
    "vehicle_readings_history",
    "meter_status",
    "vehicle_status",
    "rejected_messages",
}


async def migrate_once(url: str) -> list[str]:
    async with await connect(url) as connection:
        return await migrate(connection)


def query(url: str, text: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []


def test_the_files_are_numbered_without_a_gap() -> None:
    assert [migration.version for migration in known_migrations()] == list(range(1, len(ALL) + 1))


def test_an_empty_database_gets_every_table_and_a_second_run_does_nothing(database_url: str) -> None:
    assert asyncio.run(migrate_once(database_url)) == ALL
    tables = {name for (name,) in query(database_url, "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')")}
    assert tables >= CONTRACT_TABLES
    assert asyncio.run(migrate_once(database_url)) == []
    assert query(database_url, "SELECT version, name FROM schema_migrations ORDER BY 1") == list(enumerate(ALL, 1))


def test_several_processes_at_once_apply_each_file_once(database_url: str) -> None:
    async def all_at_once() -> list[list[str]]:
        return await asyncio.gather(*(migrate_once(database_url) for _ in range(6)))

    applied = [name for names in asyncio.run(all_at_once()) for name in names]
    assert sorted(applied) == ALL


def test_a_file_changed_after_it_was_applied_is_an_error_that_names_it(database_url: str) -> None:
    asyncio.run(migrate_once(database_url))
    query(database_url, "UPDATE schema_migrations SET checksum = 'another' WHERE version = 1")
    with pytest.raises(MigrationError, match=rf"^{ALL[0]} was changed after it was applied.*new migration$"):
        asyncio.run(migrate_once(database_url))


def test_a_newer_database_is_left_alone(database_url: str) -> None:
    asyncio.run(migrate_once(database_url))
    query(database_url, "INSERT INTO schema_migrations VALUES (9999, '9999_later.sql', 'sum')")
    with pytest.raises(MigrationError, match=r"newer than this program: it has 9999_later\.sql"):
        asyncio.run(migrate_once(database_url))


def test_a_file_that_fails_changes_nothing_and_the_files_before_it_stay(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        Migration(1, "0001_good.sql", "CREATE TABLE good (a int CHECK (a % 2 = 0));"),
        Migration(2, "0002_bad.sql", "CREATE TABLE half (a int); CREATE TABLE half (a int);"),
    ]
    monkeypatch.setattr(runner, "known_migrations", lambda: files)
    with pytest.raises(MigrationError, match=r'0002_bad\.sql failed and changed nothing: relation "half" already'):
        asyncio.run(migrate_once(database_url))
    assert query(database_url, "SELECT to_regclass('good')::text, to_regclass('half')::text") == [("good", None)]
    assert query(database_url, "SELECT version FROM schema_migrations") == [(1,)]


def test_who_waits_for_another_migration_gives_up_in_time(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOCK_TIMEOUT_MS", 100)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [int(AdvisoryLock.MIGRATIONS)])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            asyncio.run(migrate_once(database_url))
    assert asyncio.run(migrate_once(database_url)) == ALL


def test_a_user_without_rights_is_told_so_and_nothing_is_half_made(database_url: str) -> None:
    async def as_stranger() -> None:
        async with await connect(database_url) as connection:
            await connection.set_autocommit(True)
            await connection.execute("SET ROLE wattline_stranger")
            await migrate(connection)

    query(database_url, "CREATE ROLE wattline_stranger")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            asyncio.run(as_stranger())
        assert query(database_url, "SELECT to_regclass('schema_migrations')") == [(None,)]
    finally:
        query(database_url, "DROP ROLE wattline_stranger")


def test_line_ends_do_not_make_another_migration(tmp_path: Path) -> None:
    unix, windows = tmp_path / "unix.sql", tmp_path / "windows.sql"
    unix.write_bytes(b"SELECT 1;\n")
    windows.write_bytes(b"SELECT 1;\r\n")
    sums = {Migration(1, "0001_a.sql", path.read_text(encoding="utf-8")).checksum for path in (unix, windows)}
    assert len(sums) == 1


def test_a_wheel_carries_the_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    code = "from ingestor.schema import migrate as m; print(m.__file__, *[k.name for k in m.known_migrations()])"
    # From the wheel itself, as a zip: what is found there is found when it is unpacked too.
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(wheel)},
        check=True,
        capture_output=True,
        text=True,
    )
    where, *names = shown.stdout.split()
    assert where.startswith(str(wheel))
    assert names == ALL
