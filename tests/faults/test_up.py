"""`wattline up` as a person meets it: it starts, heals, refuses, and leaves nothing behind."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from embedded.leftovers import find_marked, is_alive
from embedded.ports import _least_port
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until
from wattline.cli import main

Start = Callable[..., WattlineProcess]
ANY_PORTS = ("--http-port", "0", "--mqtt-port", "0", "--metrics-port", "0")
SMALL = ("--meters", "3", "--vehicles", "2", "--interval", "0.5")
# Somebody else's server, as a person's profile may name it.
ANOTHER_POSTGRES = {"PGHOSTADDR": "192.0.2.1", "PGPORT": "1", "PGPASSWORD": "wrong", "PGSSLMODE": "verify-full"}
CHILDREN = {"postgres", "mosquitto", "ingestor", "api", "loadgen"}


def _running(data_dir: Path) -> dict[str, Any]:
    """run.json once everything has been started; {} before."""
    try:
        running: dict[str, Any] = json.loads((data_dir / "run.json").read_text())
    except FileNotFoundError:
        return {}
    return running if set(running["pids"]) == CHILDREN else {}


def _first_reading(up: WattlineProcess, data_dir: Path) -> dict[str, Any]:
    wait_until(lambda: "first reading committed" in up.output() or not up.running, what="the first reading")
    assert up.running, up.output()
    return wait_until(lambda: _running(data_dir), what="run.json")


def _family(up: WattlineProcess) -> list[psutil.Process]:
    family: list[psutil.Process] = psutil.Process(up.pid).children(recursive=True)
    assert len(family) > len(CHILDREN)  # PostgreSQL has some of its own
    return family


def _alive(family: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in family if is_alive(one)]


def _users(family: list[psutil.Process]) -> set[int]:
    users = set()
    for one in family:
        with suppress(psutil.NoSuchProcess):  # a worker of PostgreSQL may end at any moment
            users.add(one.uids().real)
    return users


def _stored(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM meter_readings_history").fetchone()
        assert row is not None
        return int(row[0])


def _metrics_committed(metrics_url: str) -> float:
    with urllib.request.urlopen(metrics_url, timeout=5) as response:
        text = response.read().decode()
    return sum(map(float, re.findall(r"^wattline_readings_committed_total\{.*\} (\S+)$", text, re.MULTILINE)))


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_day_in_its_life(tmp_path: Path, start_wattline: Start, ending: signal.Signals) -> None:
    data_dir = tmp_path / ".wattline"
    up = start_wattline("up", *ANY_PORTS, *SMALL, **ANOTHER_POSTGRES)
    running = _first_reading(up, data_dir)

    assert running["pid"] == up.pid
    # Whoever `up` itself is; but a clone that was made under a umask of 077 only its owner can run.
    assert 0 not in _users(_family(up)) or "own commands run as root" in up.output()
    assert stat.S_IMODE((data_dir / "run.json").stat().st_mode) == 0o600
    assert get_status(running["httpUrl"]) == 200
    assert _metrics_committed(running["metricsUrl"]) > 0
    assert _stored(running["databaseUrl"]) > 0
    assert running["mqttUrl"] == f"mqtt://127.0.0.1:{running['ports']['mqtt']}"
    for url in (running["httpUrl"], running["metricsUrl"], running["mqttUrl"], running["databaseUrl"]):
        assert url in up.output()

    (tmp_path / "elsewhere").mkdir()
    fleet = ("--meters", "2", "--vehicles", "0", "--rate", "10", "--messages", "10", "--verify")
    beside = WattlineProcess("loadgen", *fleet, "--data-dir", "../.wattline", folder=tmp_path / "elsewhere")
    beside.start()
    assert beside.wait(30) == 0, beside.output()
    assert "lost 0, duplicated 0, wrong 0" in beside.output()

    beside = start_wattline("rejected", "list", **ANOTHER_POSTGRES)
    assert beside.wait() == 0, beside.output()

    second = start_wattline("up", *ANY_PORTS)
    assert second.wait() == 1
    assert second.output() == (
        f"wattline: wattline already runs in .wattline (pid {up.pid}): stop that one, or choose another --data-dir\n"
    )

    family = _family(up)
    up.signal(ending)
    assert up.wait(30) == 0, up.output()
    assert _alive(family) == []
    assert not (data_dir / "run.json").exists()
    # The servers' own logs tell the order: the ingestor's links were the last ones of the broker, and took their leave.
    broker_log, database_log = ((data_dir / "logs" / f"{name}.log").read_text() for name in ("mosquitto", "postgres"))
    assert re.search(r": Client wattline-ingestor(-watch-\w+)? disconnected\.$", broker_log.splitlines()[-1])
    assert "Client wattline-ingestor disconnected." in broker_log
    assert "terminating connection" not in database_log
    assert "database system is shut down" in database_log


def test_the_same_with_tls_and_an_account_for_each(
    tmp_path: Path, start_wattline: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a production `.env` in this folder says of another broker is not for this one."""
    data_dir = tmp_path / ".wattline"
    another = {"MQTT_URL": "mqtts://a:b@192.0.2.1", "MQTT_GATEWAY_URL": "mqtts://192.0.2.1", "MQTT_TLS_CA": "none.pem"}
    up = start_wattline("up", "--secure", *ANY_PORTS, *SMALL, **another)
    running = _first_reading(up, data_dir)
    assert running["mqttUrl"] == f"mqtts://127.0.0.1:{running['ports']['mqtt']}"
    assert get_status(f"{running['httpUrl']}/readyz") == 200
    parts = {"telemetry", "wattline-gateway", "wattline-monitor"}
    devices = {"METER-001", "METER-002", "METER-003", "VEH-001", "VEH-002"}
    reading = {"meterId": "METER-009", "kwhConsumedAc": 0.1, "voltage": 230, "timestamp": f"{datetime.now(UTC):%FT%TZ}"}
    request = urllib.request.Request(f"{running['httpUrl']}/v1/telemetry/meter", json.dumps(reading).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 202

    monkeypatch.chdir(tmp_path)
    assert main(["devices", "add", "LOAD-METER-001", "LOAD-VEH-001", "--out", "more.csv"]) == 0
    fleet = ("--meters", "1", "--vehicles", "1", "--rate", "20", "--messages", "20", "--accounts", "more.csv")
    wait_until(lambda: main(["loadgen", *fleet, "--verify"]) == 0, what="the new devices' readings")
    assert "lost 0, duplicated 0, wrong 0" in capsys.readouterr().out
    assert main(["loadgen", "--meters", "1", "--vehicles", "0", "--rate", "1", "--messages", "1"]) == 1  # without
    up.signal(signal.SIGTERM)
    assert up.wait(30) == 0, up.output()
    log = (data_dir / "logs" / "mosquitto.log").read_text()  # which the broker has written by now
    assert "Client telemetry disconnected." in log
    more = {"LOAD-METER-001", "LOAD-VEH-001"}
    assert set(re.findall(r" as (\S+) \(p5", log)) == parts | devices | more
    secrets = (data_dir / "spool" / "broker" / "devices.csv").read_text()
    assert stat.S_IMODE((data_dir / "spool" / "broker" / "devices.csv").stat().st_mode) == 0o600

    again = start_wattline("up", "--secure", *ANY_PORTS, *SMALL)
    _first_reading(again, data_dir)
    assert (data_dir / "spool" / "broker" / "devices.csv").read_text() == secrets  # devices keep theirs
    assert again.stop() == 0


def test_whoever_is_killed_comes_back(tmp_path: Path, start_wattline: Start) -> None:
    up = start_wattline("up", *ANY_PORTS, *SMALL)
    running = _first_reading(up, tmp_path / ".wattline")
    pids = running["pids"]
    for name in sorted(CHILDREN):
        os.kill(pids[name], signal.SIGKILL)

    def all_new() -> dict[str, Any]:
        now = _running(tmp_path / ".wattline")
        return now if now and all(now["pids"][name] != pids[name] for name in CHILDREN) else {}

    again = wait_until(all_new, what="five new processes")
    assert again["ports"] == running["ports"]
    wait_until(lambda: get_status(f"{again['httpUrl']}/readyz") == 200, what="the API is ready again")
    wait_until(lambda: get_status(again["metricsUrl"]) == 200, what="the ingestor is there again")
    wait_until(lambda: _metrics_committed(again["metricsUrl"]) > 0, what="readings are committed again")
    assert up.output().count("was ended by SIGKILL; restarting it") == len(CHILDREN)
    assert up.stop(30) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_a_killed_up_leaves_nothing_but_its_data(tmp_path: Path, start_wattline: Start) -> None:
    data_dir = tmp_path / ".wattline"
    up = start_wattline("up", *ANY_PORTS, *SMALL)
    running = _first_reading(up, data_dir)
    stored, family = _stored(running["databaseUrl"]), _family(up)
    up.kill()
    wait_until(lambda: not _alive(family), what="all of them have gone")
    assert (data_dir / "run.json").exists()

    up.start()
    wait_until(lambda: up.output().count("first reading committed") == 2, what="the first reading of the second run")
    again = _running(data_dir)
    assert again["ports"]["pg"] == running["ports"]["pg"]
    assert _stored(again["databaseUrl"]) > stored
    assert up.stop(30) == 0


@pytest.mark.parametrize("flag", ["--http-port", "--mqtt-port", "--pg-port", "--metrics-port"])
def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path, start_wattline: Start, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = start_wattline("up", *ANY_PORTS, flag, str(port))
        assert up.wait() == 1
    assert up.output() == (f"wattline: port {port} is taken: choose another with {flag} ({flag} 0 = any free port)\n")
    assert not (tmp_path / ".wattline" / "postgres").exists()


@pytest.mark.skipif(_least_port() < 2, reason="here every port is for everybody")
def test_a_port_that_is_not_for_ordinary_users_is_named_for_root_too(tmp_path: Path, start_wattline: Start) -> None:
    up = start_wattline("up", *ANY_PORTS, "--http-port", "1")
    assert up.wait() == 1
    assert up.output() == (
        "wattline: port 1 is not for ordinary users, and nothing here listens as root: "
        "choose another with --http-port (--http-port 0 = any free port)\n"
    )
    assert not (tmp_path / ".wattline" / "postgres").exists()


def test_a_command_that_does_not_start_ends_it_with_its_reason(tmp_path: Path, start_wattline: Start) -> None:
    (tmp_path / ".wattline" / "logs" / "ingestor.log").mkdir(parents=True)
    up = start_wattline("up", *ANY_PORTS)
    assert up.wait(60) == 1
    assert "wattline: .wattline/logs/ingestor.log: Is a directory\n" in up.output()
    assert "Traceback" not in up.output()
    below = [one for one in psutil.process_iter(["cwd"]) if (one.info["cwd"] or "").startswith(str(tmp_path))]
    assert below == list(find_marked("postgres", tmp_path / ".wattline" / "postgres" / "data")) == []


def test_a_wrong_setting_is_said_before_anything_starts(tmp_path: Path, start_wattline: Start) -> None:
    up = start_wattline("up", *ANY_PORTS, MAX_INFLIGHT="many")
    assert up.wait() == 2
    assert up.output().startswith("wattline: MAX_INFLIGHT: ")
    assert list(tmp_path.glob(".wattline/*")) == []


def test_without_a_fleet_there_is_no_loadgen(tmp_path: Path, start_wattline: Start) -> None:
    up = start_wattline("up", *ANY_PORTS, "--meters", "0", "--vehicles", "0")
    wait_until(lambda: "committed 0 readings" in up.output() or not up.running, what="the status line")
    assert up.running, up.output()
    running = json.loads((tmp_path / ".wattline" / "run.json").read_text())
    assert set(running["pids"]) == CHILDREN - {"loadgen"}
    assert up.stop(30) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--interval", "0.01"), "argument --interval: '0.01' is not a number from 0.1 to 86,400"),
        (("--meters", "-1"), "argument --meters: '-1' is not a whole number from 0 to 1,000,000"),
        (("--http-port", "70000"), "argument --http-port: '70000' is not a whole number from 0 to 65,535"),
    ],
)
def test_bad_usage(start_wattline: Start, arguments: tuple[str, ...], said: str) -> None:
    up = start_wattline("up", *arguments)
    assert up.wait() == 2
    assert said in up.output()


def test_a_second_signal_does_not_wait_for_a_child_that_hangs(tmp_path: Path, start_wattline: Start) -> None:
    up = start_wattline("up", *ANY_PORTS, *SMALL)
    running = _first_reading(up, tmp_path / ".wattline")
    family = _family(up)
    os.kill(running["pids"]["loadgen"], signal.SIGSTOP)
    up.signal(signal.SIGINT)
    wait_until(lambda: "stopping ..." in up.output(), what="it stops")
    up.signal(signal.SIGINT)
    assert up.wait(10) == 0
    assert _alive(family) == []


def test_when_nobody_reads_any_more_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wattline", "up", *ANY_PORTS, *SMALL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as up:
        assert up.stdout is not None
        assert up.stderr is not None
        up.stdout.readline()
        wait_until((tmp_path / ".wattline" / "run.json").exists, what="the servers are being started")
        family = psutil.Process(up.pid).children(recursive=True)
        up.stdout.close()
        assert up.wait(30) == 1
        assert up.stderr.read() == b"wattline: Broken pipe\n"
    assert _alive(family) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, start_wattline: Start) -> None:
    (tmp_path / "file").write_text("")
    up = start_wattline("up", *ANY_PORTS, "--data-dir", "file/data")
    assert up.wait() == 1
    assert up.output() == "wattline: file/data: Not a directory\n"
