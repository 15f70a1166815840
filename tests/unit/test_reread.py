"""SIGHUP: what changes, what waits, what keeps everything as it was, and the one line that says so."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.errors import SettingsError
from config.logging import configure_logging
from config.reread import Rereading
from config.settings import Settings, load_settings
from config.tokens import tokens


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A folder without `.env`, and the signal as it was, after each test."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    before = signal.getsignal(signal.SIGHUP)
    yield tmp_path
    signal.signal(signal.SIGHUP, before)
    configure_logging("WARNING", "text")


def test_what_may_change_does_and_what_may_not_waits(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = elsewhere / ".env"
    env.write_text("API_READ_TOKENS=0ld\nLOG_LEVEL=ERROR\n")
    applied: list[Settings] = []
    rereading = Rereading(load_settings, lambda _: None, applied.append)
    configure_logging("ERROR", "text")
    env.write_text("API_READ_TOKENS=n3w\nLOG_LEVEL=ERROR\nPORT=7\nMETER_MAX_KWH=5\n")
    rereading.reread()
    (line,) = capsys.readouterr().err.splitlines()
    assert "SIGHUP: changed API_READ_TOKENS; a restart is needed for PORT, METER_MAX_KWH; " in line
    assert "n3w" not in line
    assert applied[-1].read_tokens == tokens("n3w")
    assert applied[-1].port == 3000
    env.write_text("LOG_LEVEL=DEBUG\n")
    rereading.reread()
    assert "changed API_READ_TOKENS (unset now), LOG_LEVEL; cert" in capsys.readouterr().err
    assert applied[-1].log_level == "DEBUG"
    rereading.reread()
    assert "no setting changed" in capsys.readouterr().err


@pytest.mark.parametrize("text", [b"LOG_LEVEL=LOUD", b'API_READ_TOKENS="x', b"API_READ_TOKENS=a b", b"X=\xff", None])
def test_what_cannot_be_used_changes_nothing(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], text: bytes | None
) -> None:
    env = elsewhere / ".env"
    env.write_text("API_READ_TOKENS=0ld")
    applied: list[Settings] = []
    rereading = Rereading(load_settings, lambda _: None, applied.append)
    configure_logging("INFO", "text")
    if text is None:
        env.unlink()
    else:
        env.write_bytes(text)
    rereading.reread()
    (line,) = capsys.readouterr().err.splitlines()
    assert "SIGHUP: everything stays as it was: " in line
    assert not applied
    assert rereading.settings.read_tokens == tokens("0ld")


def test_files_that_cannot_be_used_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def check(_: Settings) -> None:
        raise SettingsError("MQTT_TLS_CA: cannot use ca.pem")

    configure_logging("INFO", "text")
    applied: list[Settings] = []
    Rereading(load_settings, check, applied.append).reread()
    assert not applied
    assert "stays as it was: MQTT_TLS_CA" in capsys.readouterr().err


def test_a_signal_before_the_loop_counts(elsewhere: Path) -> None:
    applied: list[Settings] = []
    rereading = Rereading(load_settings, lambda _: None, applied.append)
    (elsewhere / ".env").write_text("LOG_LEVEL=ERROR")
    os.kill(os.getpid(), signal.SIGHUP)

    async def started() -> None:
        rereading.listen()

    asyncio.run(started())
    assert applied[-1].log_level == "ERROR"
