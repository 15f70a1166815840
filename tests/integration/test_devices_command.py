"""`wattline devices` beside a broker at work: it is not restarted, nobody else is cut, and nothing is lost."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from access.folder import read
from tests.secure_broker import INGESTOR, SECRET, Client, GuardedByUs, client
from tests.waiting import wait_until
from wattline.cli import main

HONEST = "METER-001"
TOPIC = f"v1/telemetry/meter/{HONEST}"
MANY = 10_000
PROVISIONING_SECONDS_MAX = 60.0


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedByUs]:
    broker = GuardedByUs(tmp_path / "broker", [HONEST])
    broker.start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROKER_ACCESS_DIR", str(broker.access))
    yield broker
    broker.stop()


def gets_in(broker: GuardedByUs, account: str, secret: str) -> bool:
    with client(broker, account, secret=secret) as device:
        return device.refused is None


class Publishing:
    """An honest device that publishes for as long as it lasts; `acknowledged` is what the broker has taken."""

    def __init__(self, device: Client) -> None:
        self.acknowledged: list[bytes] = []
        self._device = device
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._done.is_set():
            number += 1
            payload = b"%d" % number
            assert self._device.publish(TOPIC, payload) == "Success"
            self.acknowledged.append(payload)


def test_ten_thousand_come_from_a_list_while_others_publish(broker: GuardedByUs, tmp_path: Path) -> None:
    with Path("devices.csv").open("w", encoding="ascii") as file:
        file.writelines(f"VEH-{number:05d}\n" for number in range(MANY))
    with client(broker, INGESTOR) as reader, client(broker, HONEST) as device:
        reader.subscribe("v1/telemetry/#")
        began = time.monotonic()
        with Publishing(device) as publishing:
            assert main(["devices", "add", "--csv", "devices.csv", "--out", "secrets.csv"]) == 0
            with Path("secrets.csv").open(encoding="ascii") as file:
                secrets = {row["username"]: row["password"] for row in csv.DictReader(file)}
            wait_until(lambda: gets_in(broker, "VEH-09999", secrets["VEH-09999"]), what="the last of them gets in")
        took = time.monotonic() - began
        assert publishing.acknowledged
        wait_until(lambda: len(reader.received) == len(publishing.acknowledged), what="all that was acknowledged")
        assert [payload for _, payload in reader.received] == publishing.acknowledged
        assert (reader.ended, device.ended) == ([], [])
    assert len(secrets) == MANY
    assert took < PROVISIONING_SECONDS_MAX
    assert broker.exit_status is None


def test_who_is_given_a_new_secret_or_removed_is_cut_and_nobody_else(
    broker: GuardedByUs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["devices", "add", "METER-002", "AA:BB"]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]
    secrets = {username: secret for _, username, secret in rows}
    for account, secret in secrets.items():
        wait_until(lambda account=account, secret=secret: gets_in(broker, account, secret), what=f"{account} gets in")

    honest = Client(broker, HONEST)
    ones = {account: Client(broker, account, secret=secret) for account, secret in secrets.items()}
    assert main(["devices", "rotate", "METER-002"]) == 0
    new = capsys.readouterr().out.splitlines()[1].split(",")[2]
    wait_until(lambda: ones["METER-002"].ended, what="its old connection is cut")
    assert not gets_in(broker, "METER-002", secrets["METER-002"])
    assert gets_in(broker, "METER-002", new)

    assert main(["devices", "remove", "AA:BB"]) == 0
    wait_until(lambda: ones["AA%3ABB"].ended, what="its connection is cut")
    assert not gets_in(broker, "AA%3ABB", secrets["AA%3ABB"])
    assert honest.ended == []
    assert honest.refused is None
    assert "AA%3ABB" not in (broker.access / "acl").read_text()
    honest.leave()


def test_one_right_behind_the_other_is_heeded_as_well(broker: GuardedByUs, capsys: pytest.CaptureFixture[str]) -> None:
    """Mosquitto forgets a signal that comes while it reads its files, which with many clients takes long."""
    clients = [Client(broker, HONEST)]
    for number in range(3):
        assert main(["devices", "add", f"METER-10{number}"]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines() if line.startswith("METER-10")]
    for _, account, secret in rows:
        wait_until(lambda account=account, secret=secret: gets_in(broker, account, secret), what=f"{account} gets in")
    assert len(read(broker.access).passwords) == 7
    assert gets_in(broker, INGESTOR, SECRET)
    for each in clients:
        each.leave()
