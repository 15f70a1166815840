"""`wattline secure` makes what is missing, once, and a broker by what it made lets the right ones in."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values

from access.certificates import Certificate, hosts_of, issue
from access.folder import put, read
from access.passwords import is_password_of
from config.settings import load_settings
from wattline.cli import main

ACCESS = Path("production/mosquitto/access")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made() -> dict[str, bytes]:
    files = [Path(".env"), *(file for file in Path("production").rglob("*") if file.is_file())]
    return {str(file): file.read_bytes() for file in files}


def test_what_is_there_stays_and_no_secret_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_text("RETENTION_DAYS=30\nAPI_WRITE_TOKENS=mine")
    assert main(["secure", "--host", "broker.example.com"]) == 0
    printed = "".join(capfd.readouterr())
    variables = {name: value or "" for name, value in dotenv_values(".env").items()}
    assert variables["RETENTION_DAYS"] == "30"
    assert variables["API_WRITE_TOKENS"] == "mine"
    secrets = [value for name, value in variables.items() if name.endswith(("_SECRET", "_PASSWORD", "_TOKENS"))]
    assert len(set(secrets)) == len(secrets) == 8
    assert not any(secret in printed for secret in secrets)
    first = made()
    private = [file for file in first if not file.endswith((".pem", "/lock"))]
    assert [file for file in private if stat.S_IMODE(Path(file).stat().st_mode) != 0o600] == []
    assert main(["secure"]) == 0
    assert made() == first


def test_its_settings_are_those_of_its_accounts() -> None:
    assert main(["secure", "--host", "broker.example.com"]) == 0
    settings = load_settings()
    accounts = read(ACCESS).passwords
    for url in (settings.mqtt_url, settings.mqtt_gateway_url, settings.mqtt_monitor_url):
        broker = settings.connecting_by(url).broker
        assert str(broker) == "mqtts://broker.example.com:8883"
        assert broker.password is not None
        assert is_password_of(accounts[broker.username or ""], broker.password.get_secret_value())
    assert settings.mqtt_client_id == settings.broker.username == "telemetry"
    assert settings.broker_access_dir == ACCESS
    assert main(["devices", "add", "METER-001"]) == 0


def test_a_certificate_in_its_last_month_is_replaced_with_all_its_names() -> None:
    assert main(["secure", "--host", "broker.example.com"]) == 0
    authority = Certificate((ACCESS / "ca.pem").read_text(), Path("production/ca.key").read_text())
    old = issue(authority, "x", hosts=["broker.example.com", "localhost", "127.0.0.1", "mosquitto"], days=20)
    put(ACCESS / "server.pem", old.certificate, 0o644)
    assert main(["secure"]) == 0
    new = (ACCESS / "server.pem").read_text()
    assert new != old.certificate
    assert sorted(hosts_of(new)) == ["127.0.0.1", "broker.example.com", "localhost", "mosquitto"]
    assert (ACCESS / "ca.pem").read_text() == authority.certificate


def test_a_host_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["secure", "--host", "broker:8883/x"])
    assert ended.value.code == 2
    assert "a host's name or address is expected" in capsys.readouterr().err
    assert not Path(".env").exists()
