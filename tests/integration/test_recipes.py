"""The recipe for a kind of reading works: its declaration and its migration, as docs/recipes.md has them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from ingestor.schema import catalogue, migrate
from ingestor.schema.catalogue import check_kinds
from ingestor.schema.migrate import Migration, MigrationError, known_migrations
from postgres.connecting import connect
from telemetry.kinds import KINDS, Kind, Measure
from tests.inverter import INVERTER
from tests.recipes import ROOT, block


def test_the_declaration_is_the_one_that_the_tests_use() -> None:
    names: dict[str, object] = {"Kind": Kind, "Measure": Measure}
    exec(block("python"), names)
    assert names["INVERTER"] == INVERTER


def test_the_migration_is_one_that_check_lets_pass() -> None:
    squawk = Path(sys.executable).parent / "squawk"
    command = [str(squawk), "--config", str(ROOT / ".squawk.toml"), "--stdin-filepath", "recipe.sql"]
    done = subprocess.run(command, input=block("sql"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_migration_makes_what_the_declaration_needs(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "KINDS", (*KINDS, INVERTER))
    known = known_migrations()
    with pytest.raises(MigrationError, match="inverter_hourly"):
        asyncio.run(migrated(database_url))
    more = Migration(known[-1].version + 1, "inverter", block("sql"))
    monkeypatch.setattr(migrate, "known_migrations", lambda: [*known, more])
    asyncio.run(migrated(database_url))


async def migrated(url: str) -> None:
    async with await connect(url, autocommit=True) as connection:
        await migrate.migrate(connection)
        assert await check_kinds(connection) == []
