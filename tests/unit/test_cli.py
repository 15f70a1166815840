"""What the commands have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

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
