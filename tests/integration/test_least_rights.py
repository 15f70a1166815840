"""Every part does its whole work with the rights of its own login, and none of them is the owner or a superuser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import psycopg
import pytest

from config.logins import Login
from ingestor.housekeeping.chores import ChoreName
from tests.api_client import api_client
from tests.api_process import running_api
from tests.backends import Broker
from tests.devices import device, meter_reading, readings_of_fleet
from tests.faults.counting import assert_books_balance
from tests.logins import PASSWORD, House, house, migrated
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.waiting import wait_until
from wattline.cli import main

READINGS = 200


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house") / "postgres") as made:
        yield made


@pytest.fixture
def command(home: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`command("bookkeeper", "readings", "list")`: a command of this process, as that user."""
    monkeypatch.chdir(tmp_path)

    def run(user: str, *words: str, **settings: str) -> int:
        for name, value in {"DATABASE_URL": home.url(user), **settings}.items():
            monkeypatch.setenv(name, value)
        return main(words)

    return run


def count(home: House, table: str) -> int:
    with psycopg.connect(home.administrator) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return int(row[0]) if row else -1


def stored(home: House) -> int:
    return count(home, "meter_readings_history") + count(home, "vehicle_readings_history")


def done(process: WattlineProcess, chore: str) -> bool:
    return metric(process, "wattline_chore_last_success_timestamp_seconds", chore=chore) > 0


@contextmanager
def ingesting(start_wattline: Callable[..., WattlineProcess], home: House, broker: Broker) -> Iterator[WattlineProcess]:
    process = start_wattline("ingest", DATABASE_URL=home.url("ingestor"), MQTT_URL=broker.url)
    process.wait_ready()
    yield process
    process.stop()


def test_readings_are_stored_answered_and_annulled(
    home: House,
    broker: Broker,
    start_wattline: Callable[..., WattlineProcess],
    command: Callable[..., int],
    tmp_path: Path,
) -> None:
    old = datetime.now(UTC) - timedelta(days=20)  # its partitions are made on demand
    published = [
        *readings_of_fleet(READINGS),
        *(("meter", meter_reading("METER-OLD", old + timedelta(days=n))) for n in range(3)),
    ]
    with ingesting(start_wattline, home, broker) as ingestor, device(broker.port) as publisher:
        for kind, reading in (*published, *published[:50]):
            (publisher.meter if kind == "meter" else publisher.vehicle)(reading)
        publisher.meter(meter_reading("METER-OLD", old, voltage=1))  # a conflict
        publisher.publish("v1/telemetry/meter/METER-1", b"nonsense")
        publisher.wait_acknowledged()
        wait_until(lambda: stored(home) == len(published), what="every reading is stored")
        wait_until(lambda: count(home, "rejected_messages") == 2, what="what was refused is in quarantine")
        assert_books_balance(ingestor)
        assert metric(ingestor, "wattline_readings_duplicate_total") == 50
        for chore in get_args(ChoreName):
            wait_until(lambda chore=chore: done(ingestor, chore), what=f"a round of {chore}")
        assert "denied" not in ingestor.output()

    with running_api(tmp_path, home.url("reader")) as api, api_client(api.http_url) as client:
        assert (
            len(client.get("/v1/telemetry/meter/METER-OLD/history", params={"from": old.isoformat()}).json()["data"])
            == 3
        )
        link = {"meterId": "METER-OLD", "validFrom": old.isoformat()}
        assert client.put("/v1/vehicles/VEH-0001/meter", json=link).status_code == 200
        annulment = {
            "deviceId": "METER-OLD",
            "from": old.isoformat(),
            "to": (old + timedelta(hours=1)).isoformat(),
            "reason": "a test",
            "by": "Ada",
        }
        assert client.post("/v1/readings/annulments", json=annulment).status_code == 403
        asyncio.run(migrated(home.url("owner"), Login("reader", ("api", "ledger"), PASSWORD)))
        answer = client.post("/v1/readings/annulments", json=annulment)
        assert answer.json()["data"]["readings"] == 1
        assert "the API acts as the role wattline_api" in api.output()
    assert stored(home) == len(published) - 1

    # The commands of a person, each as the user that its work needs.
    number = str(answer.json()["data"]["id"])
    assert command("bookkeeper", "readings", "restore", "--id", number) == 0
    assert stored(home) == len(published)
    assert command("bookkeeper", "readings", "list") == 0
    assert command("bookkeeper", "device", "forget", "--kind", "meter", "METER-OLD") == 0
    assert command("ingestor", "rejected", "list") == 0
    assert command("ingestor", "rejected", "replay", "--all") == 1, "it is refused again"
    assert (
        command("ingestor", "rebuild-hourly", "--from", f"{old:%FT%TZ}", "--to", f"{old + timedelta(hours=2):%FT%TZ}")
        == 0
    )
    assert command("ingestor", "migrate") == 0, "it looks, and finds nothing to do"
    assert stored(home) == len(published)


def test_what_a_command_may_not_is_one_line(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("ingestor", "retention", "run", RETENTION_DAYS="5") == 1
    assert (
        "user ingestor does not own the tables, so it may not drop their days; run it as the owner"
        in capsys.readouterr().err
    )
    assert command("reader", "retention") == 1
    assert "permission denied for table retention_progress; grant it to the user" in capsys.readouterr().err
    assert command("watcher", "rejected", "list") == 1
    assert "permission denied for table rejected_messages" in capsys.readouterr().err


def test_a_simulated_fleet_is_verified_by_who_may_only_read(
    home: House,
    broker: Broker,
    start_wattline: Callable[..., WattlineProcess],
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ingesting(start_wattline, home, broker):
        options = ("--max", "--messages", "500", "--verify", "--json")
        assert command("reader", "loadgen", *options, MQTT_URL=broker.url) == 0
    assert json.loads(capsys.readouterr().out)["verified"]["lost"] == 0
