"""`wattline readings` and `wattline device`: what a person types, reads and gets for an exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.api_process import MeterRow, VehicleRow, prepare, store
from tests.processes import WattlineProcess

Command = Callable[..., tuple[int, str]]
T0 = datetime(2026, 1, 31, 14, tzinfo=UTC)
STRETCH = ("--from", "2026-01-31T14:00:00Z", "--to", "2026-01-31T15:00:00Z", "--reason", "a counter's reset")


@pytest.fixture
def command(database_url: str, start_wattline: Callable[..., WattlineProcess]) -> Command:
    """Run it on a database with a few readings of each kind."""
    prepare(database_url)
    minutes = [T0 + timedelta(minutes=number) for number in (-1, 0, 59)]
    store(
        database_url,
        [MeterRow("M-1", ts, 0.25 * number) for number, ts in enumerate(minutes)] + [MeterRow("BOTH", T0, 1.0)],
        [VehicleRow("V-1", ts, 1.0) for ts in minutes] + [VehicleRow("BOTH", T0, 1.0)],
    )

    def run(*words: str) -> tuple[int, str]:
        process = start_wattline(*words, DATABASE_URL=database_url)
        return process.wait(), process.output()

    return run


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def test_a_firmware_s_mistake_is_annulled_and_put_back(command: Command, database_url: str) -> None:
    history = "SELECT * FROM meter_readings_history ORDER BY 1, 2"
    before = rows(database_url, history)
    status, said = command("readings", "annul", "--device", "M-1", *STRETCH, "--by", "Ada", "--dry-run")
    assert status == 0
    assert said.startswith(
        "would annul 2 readings (0.7500 kWh in 1 hour; the newest reading is another one now, or none)"
    )
    assert rows(database_url, history) == before
    status, said = command("readings", "annul", "--device", "M-1", *STRETCH, "--by", "Ada")
    assert (status, said.startswith("annulled 2 readings (0.7500 kWh in 1 hour; ")) == (0, True)
    number = said.rsplit("wattline readings restore --id ", 1)[1].strip()
    assert len(rows(database_url, history)) == len(before) - 2
    assert rows(database_url, "SELECT last_reading FROM meter_status WHERE meter_id = 'M-1'") == [
        (T0 - timedelta(minutes=1),)
    ]
    status, said = command("readings", "list", "--json", "--device", "M-1")
    listed = json.loads(said)
    assert (listed["who"], listed["reason"], listed["readings"]) == ("Ada", "a counter's reset", 2)
    status, said = command("readings", "restore", "--id", number)
    assert (status, said.startswith("restored 2 readings (0.7500 kWh in 1 hour; ")) == (0, True)
    assert rows(database_url, history) == before
    assert "(2 restored " in command("readings", "list")[1]


def test_what_cannot_be_restored_is_said(command: Command, database_url: str) -> None:
    command("readings", "annul", "--device", "M-1", *STRETCH)
    ((number,),) = rows(database_url, "SELECT id FROM annulments")
    store(database_url, [MeterRow("M-1", T0, 0.125)])
    status, said = command("readings", "restore", "--id", str(number))
    assert status == 1
    assert "restored 1 reading (0.5000 kWh" in said
    assert "1 reading not restored: another reading of that moment is stored now" in said


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (("--device", "M-2", *STRETCH), 1, "no device M-2 has a reading in this stretch"),
        (("--device", "M-1", "--kind", "vehicle", *STRETCH), 1, "vehicle M-1 has no reading in this stretch"),
        (("--device", "BOTH", *STRETCH), 1, "a meter and a vehicle have the id BOTH; say of which kind"),
        (("--device", "M-1", "--from", "2026-01-31", "--to", "2026-01-31", "--reason", "x"), 2, "--to must be later"),
        (("--device", "M 1", *STRETCH), 2, "a device's id has 1 to 100 characters"),
        (("--device", "M-1", *STRETCH, "--reason", " "), 2, "one line of 1 to 500 characters is expected"),
        (("--device", "M-1", *STRETCH, "--from", "yesterday"), 2, "'yesterday' is not a time like"),
    ],
)
def test_what_makes_no_sense_is_one_line(command: Command, words: tuple[str, ...], status: int, line: str) -> None:
    found = command("readings", "annul", *words)
    assert found[0] == status
    assert line in found[1]
    assert "Traceback" not in found[1]


def test_devices_are_forgotten_until_they_send_again(command: Command, database_url: str) -> None:
    statuses = "SELECT meter_id FROM meter_status ORDER BY 1"
    store(database_url, [MeterRow(f"LOAD-{number}", T0, 1.0) for number in range(25)])
    history = rows(database_url, "SELECT count(*) FROM meter_readings_history")
    status, said = command("device", "forget", "--kind", "meter", "--prefix", "LOAD-", "--dry-run")
    assert (status, said.startswith("would forget 25 meters: LOAD-0, LOAD-1, ")) == (0, True)
    assert len(rows(database_url, statuses)) == 27
    status, said = command("device", "forget", "--kind", "meter", "--prefix", "LOAD-")
    assert (status, "and 5 more" in said) == (0, True)
    status, said = command("device", "forget", "--kind", "meter", "M-1", "M-2")
    assert status == 1
    assert "forgot 1 meter: M-1" in said
    assert "no status of 1 meter: M-2" in said
    assert rows(database_url, statuses) == [("BOTH",)]
    assert rows(database_url, "SELECT count(*) FROM meter_readings_history") == history
    assert len(rows(database_url, "SELECT meter_id FROM vehicle_status, meter_status WHERE vehicle_id = 'V-1'")) == 1
    store(database_url, [MeterRow("M-1", T0 + timedelta(hours=2), 1.0)])
    assert rows(database_url, statuses) == [("BOTH",), ("M-1",)]
    assert command("device", "forget", "--kind", "meter", "--prefix", "LOAD-")[0] == 1
    assert command("device", "forget", "--kind", "meter")[0] == 2


def test_a_restore_does_not_bring_back_who_was_forgotten(command: Command, database_url: str) -> None:
    command("readings", "annul", "--device", "M-1", *STRETCH)
    ((number,),) = rows(database_url, "SELECT id FROM annulments")
    command("device", "forget", "--kind", "meter", "M-1")
    status, said = command("readings", "restore", "--id", str(number))
    assert (status, "the newest reading" in said) == (0, False)
    assert rows(database_url, "SELECT FROM meter_status WHERE meter_id = 'M-1'") == []
