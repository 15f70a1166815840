"""loadgen with an account for each device: a connection each, and nobody's reading goes over another's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from access.lists import Entry, csv_text
from loadgen.fleet import device_ids
from tests.processes import WattlineProcess
from tests.secure_broker import INGESTOR, SECRET, GuardedByUs, client
from tests.waiting import wait_until
from wattline.cli import main

FLEET = {"meter": 3, "vehicle": 2}
DEVICES = device_ids(FLEET, "LOAD")
SIZES = ("--meters", "3", "--vehicles", "2")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedByUs]:
    broker = GuardedByUs(tmp_path_factory.mktemp("broker"), DEVICES)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(autouse=True)
def beside(broker: GuardedByUs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MQTT_URL", broker.url)
    monkeypatch.setenv("MQTT_TLS_CA", str(broker.ca_file))
    Path("accounts.csv").write_text(csv_text([Entry(device, SECRET) for device in DEVICES]))


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize(
    "pace",
    [("--interval", "0.1", "--duration", "1"), ("--rate", "100", "--messages", "50"), ("--max", "--messages", "500")],
)
def test_every_device_by_its_own(
    broker: GuardedByUs, capsys: pytest.CaptureFixture[str], version: str, pace: tuple[str, ...]
) -> None:
    """At this broker a reading over another's connection is refused, by MQTT 5 with a word."""
    with client(broker, INGESTOR) as reader:
        reader.subscribe("v1/telemetry/#")
        assert main(["loadgen", *SIZES, *pace, "--accounts", "accounts.csv", "--mqtt-version", version, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["acknowledged"] == report["published"] > 0
        wait_until(lambda: len(reader.received) == report["published"], what="all that was acknowledged")
        assert {topic.rpartition("/")[2] for topic, _ in reader.received} == set(DEVICES)


def test_a_device_without_an_account_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadgen", *SIZES, "--prefix", "OTHER", "--max", "--messages", "1", "--accounts", "accounts.csv"]) == 2
    said = capsys.readouterr().err
    assert "accounts.csv has no account of 5 devices: OTHER-METER-001, OTHER-METER-002" in said
    Path("accounts.csv").write_text("LOAD-METER-001\n")
    assert main(["loadgen", *SIZES, "--max", "--messages", "1", "--accounts", "accounts.csv"]) == 1
    assert "line 1: LOAD-METER-001 has no password" in capsys.readouterr().err


def test_every_device_is_told_by_its_own_and_by_nobody_elses(
    broker: GuardedByUs,
    start_wattline: Callable[..., WattlineProcess],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The ingestor may write receipts, a device may read its own, and nothing else is needed for it."""
    ours = broker.url_for(INGESTOR, quote(SECRET))
    ingestor = start_wattline(
        "ingest",
        DATABASE_URL=database_url,
        MQTT_URL=ours,
        MQTT_TLS_CA=str(broker.ca_file),
        MQTT_CLIENT_ID=INGESTOR,
    )
    ingestor.wait_ready()
    monkeypatch.setenv("DATABASE_URL", database_url)
    asks = ("--max", "--messages", "50", "--receipts", "--verify")
    assert main(["loadgen", *SIZES, *asks, "--accounts", "accounts.csv", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["acknowledged"] == report["verified"]["acknowledged"] == 50
