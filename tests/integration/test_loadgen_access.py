"""loadgen through TLS, with both versions of MQTT, and against a broker that asks for a password."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from loadgen import run as run_module
from tests.guarded_broker import PASSWORDS, TLS, GuardedBroker
from wattline.cli import main


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_tls_with_a_certificate_of_ones_own(
    guarded: Callable[..., GuardedBroker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
) -> None:
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "server.key")
    subprocess.run(
        ["openssl", "req", "-x509", *new_key, "-out", "server.pem", "-subj", "/CN=x", "-addext",
         "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    files = {name: (tmp_path / name).read_text() for name in ("server.pem", "server.key")}
    broker = guarded(TLS, files)
    monkeypatch.setenv("MQTT_URL", f"mqtts://127.0.0.1:{broker.tls_port}")
    monkeypatch.setenv("MQTT_TLS_CA", str(tmp_path / "server.pem"))
    main(["loadgen", "--max", "--messages", "2000", "--mqtt-version", version, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["published"] == 2000
    # Nobody is subscribed, which only MQTT 5 can say.
    assert (report["acknowledged"], sum(report["refused"].values())) == ((0, 2000) if version == "5" else (2000, 0))


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_broker_that_wants_a_password(
    guarded: Callable[..., GuardedBroker],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
) -> None:
    broker = guarded(PASSWORDS, {"passwords": ""})
    monkeypatch.setattr(run_module, "CONNECT_SECONDS_MAX", 0.3)
    monkeypatch.setenv("MQTT_URL", f"mqtt://ann:secret@127.0.0.1:{broker.port}")
    assert main(["loadgen", "--max", "--messages", "10", "--mqtt-version", version]) == 1
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert "not authorized; check user and password in MQTT_URL" in last_line
    assert "secret" not in last_line
