"""Declared kinds against the tables of a real database."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest

from ingestor.schema import catalogue
from ingestor.schema.catalogue import check_kinds
from ingestor.schema.migrate import MigrationError
from postgres.connecting import connect
from telemetry.kinds import KINDS, METER
from tests.api_process import prepare


def check(url: str) -> list[str]:
    async def checked() -> list[str]:
        async with await connect(url) as connection:
            return await check_kinds(connection)

    return asyncio.run(checked())


def test_every_declared_kind_has_its_tables(database_url: str) -> None:
    prepare(database_url)
    assert check(database_url) == []


def test_a_kind_without_tables_or_columns_names_them(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(database_url)
    voltage = METER.measures[1]
    more = replace(METER, measures=(*METER.measures, replace(voltage, name="current", column="current_a")))
    monkeypatch.setattr(catalogue, "KINDS", (more, replace(METER, name="inverter")))
    with pytest.raises(
        MigrationError,
        match=r"no meter_readings_history\.current_a, meter_status\.current_a, inverter_readings_history, inverter_st",
    ):
        check(database_url)


def test_tables_without_a_kind_are_named(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(database_url)
    monkeypatch.setattr(catalogue, "KINDS", KINDS[:1])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA other; CREATE TABLE other.x_readings_history (a int) PARTITION BY RANGE (a)")
    assert check(database_url) == ["vehicle_readings_history"]
