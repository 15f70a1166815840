"""What the commands have in common."""

from __future__ import annotations

import argparse
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import pytest

from config.errors import SettingsError, UsageError, WattlineError
from config.logging import configure_logging
from mqtt.errors import LinkLost
from wattline.cli import COMMANDS, main

REPLAY = ["rejected", "replay", "--all"]


@pytest.mark.parametrize("place", [1, 2, 3])
def test_the_data_directory_may_stand_anywhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*REPLAY[:place], "--data-dir", "there", *REPLAY[place:]]) == 2
    assert capsys.readouterr().err == "wattline: --data-dir: no `wattline up` runs in there\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_knows_the_data_directory(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "--data-dir DIR" in capsys.readouterr().out


def test_what_publishes_guesses_no_broker(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["loadgen"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "MQTT_URL" in line
    assert "--data-dir" in line


@pytest.mark.parametrize("error", [WattlineError("no"), UsageError("no"), SettingsError("no"), LinkLost("no")])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_a_person_can_mend_is_one_line_and_a_status(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: WattlineError,
    log_format: Literal["text", "json"],
) -> None:
    """In the form of the log once that is JSON, for the program that reads it."""

    def fail(_: argparse.Namespace) -> int:
        configure_logging("INFO", log_format)
        raise error

    monkeypatch.setattr("ingestor.schema.command.run", fail)
    root = logging.getLogger()
    handlers = root.handlers[:]
    try:
        status = main(["migrate"])
    finally:
        root.handlers[:] = handlers
    assert status == (2 if isinstance(error, UsageError) else 1)
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "wattline: no" if log_format == "text" else json.loads(line)["message"] == "no"


def test_a_mistake_of_wattline_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise KeyError("a bug")

    monkeypatch.setattr("ingestor.schema.command.run", fail)
    with pytest.raises(KeyError):
        main(["migrate"])


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"wattline {version('wattline')}\n"
