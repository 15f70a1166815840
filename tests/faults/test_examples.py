"""The devices of examples/: they send until their receipts come, against a broker whose ingestor comes late."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.backends import Broker
from tests.faults.counting import rows_in_history
from tests.processes import WattlineProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
READINGS = 2
STORED = {"stored": 1, "repeated": 0, "conflict": 0, "refused": []}


def compiled(source: Path, folder: Path) -> list[str]:
    """The command that a C example makes; skips the test where there is no compiler, or not its library."""
    program = folder / source.stem
    command = ["cc", "-Wall", "-Wextra", "-Werror", str(source), "-lmosquitto", "-o", str(program)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs a C compiler")
    except subprocess.CalledProcessError as error:
        if "mosquitto.h" in error.stderr and "No such file" in error.stderr:
            pytest.skip("needs libmosquitto-dev")
        raise AssertionError(error.stderr) from None
    return [str(program)]


@pytest.fixture
def run(tmp_path: Path, broker: Broker) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a device, as its user does."""
    with ExitStack() as stack:

        def start(command: list[str], device_id: str) -> subprocess.Popen[str]:
            arguments = [*command, device_id, "127.0.0.1", str(broker.port), str(READINGS)]
            process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def test_each_sends_until_its_receipts_have_come_and_nothing_is_stored_twice(
    run: Callable[..., subprocess.Popen[str]],
    start_ingestor: Callable[..., WattlineProcess],
    broker: Broker,
    database_url: str,
) -> None:
    first = start_ingestor()
    first.stop()  # its session stays at the broker, so that messages wait there
    devices = {
        name: run([sys.executable, str(EXAMPLES / f"device_{name}.py")], f"METER-{name}")
        for name in ("paho", "aiomqtt")
    }
    for device in devices.values():
        assert device.stdout is not None
        assert device.stdout.readline() == "no receipt of reading 0 yet, sending it again\n"
    start_ingestor()
    for device in devices.values():
        _assert_told(device)
    assert rows_in_history(database_url) == READINGS * len(devices)


def test_the_device_in_c(
    run: Callable[..., subprocess.Popen[str]],
    start_ingestor: Callable[..., WattlineProcess],
    database_url: str,
    tmp_path: Path,
) -> None:
    command = compiled(EXAMPLES / "device_mosquitto.c", tmp_path)
    start_ingestor()
    _assert_told(run(command, "METER-C"))
    assert rows_in_history(database_url) == READINGS


def _assert_told(device: subprocess.Popen[str]) -> None:
    output, _ = device.communicate(timeout=60)
    assert device.returncode == 0
    told = re.findall(r"^reading (\d): (.*)$", output, re.MULTILINE)
    assert [int(number) for number, _ in told] == list(range(READINGS))
    for _, receipt in told:
        counts = json.loads(receipt)
        assert counts in (STORED, STORED | {"stored": 0, "repeated": 1})
