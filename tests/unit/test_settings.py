"""Settings: a wrong value is one line that names its variable and holds no secret."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.broker import broker_address
from config.errors import SettingsError
from config.settings import Settings, load_settings

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No `.env`, no running `up`, no variables of the machine."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_PORT", "many"),
        ("DATABASE_PORT", "0"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@ho st:5432/x"),
        ("DATABASE_URL", f"postgresql://u:p@{SECRET}@host/x"),
        ("DATABASE_URL", f"postgresql://u:p/{SECRET}@host/x"),
        ("DATABASE_URL", f"nonsense {SECRET}"),
        ("PORT", "70000"),
        ("MQTT_URL", f"http://u:{SECRET}@localhost:1883"),
        ("MQTT_URL", f"mqtt://u:{SECRET}@localhost:port"),
        ("MQTT_URL", f"mqtt://u:{SECRET}@localhost:0"),
        ("MQTT_URL", f"mqtt://u:{SECRET}@localhost:1883/topic"),
        ("MQTT_URL", f"mqtt://u:[{SECRET}]@localhost"),
        ("MQTT_URL", f"mqtt://u:℀{SECRET}@localhost"),
        ("MQTT_URL", f"mqtt://u:#{SECRET}@localhost"),
        ("MQTT_URL", "mqtt://[::1"),
        ("MQTT_URL", "mqtt://"),
        ("MQTT_CLIENT_ID", ""),
        ("MQTT_SHARE_GROUP", "a/b"),
        ("MAX_INFLIGHT", "65536"),
        ("MAX_PENDING_BYTES", "1"),
        ("FLUSH_INTERVAL_MS", "0"),
        ("FLUSH_INTERVAL_MS", "1.5"),
        ("RETENTION_DAYS", "-1"),
        ("MAX_READING_AGE_DAYS", "0"),
        ("METER_ID_CONVENTION", "VEH-"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    text = str(raised.value)
    assert text.startswith(f"{name}: ")
    assert "\n" not in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"MAX_INFLIGHT": "100", "FLUSH_MAX_ROWS": "101"}, ("FLUSH_MAX_ROWS", "MAX_INFLIGHT")),
        ({"MQTT_SHARE_GROUP": "g"}, ("MQTT_CLIENT_ID", "MQTT_SHARE_GROUP")),
        ({"MQTT_TLS_CERT": "c.pem", "MQTT_URL": "mqtts://b"}, ("MQTT_TLS_CERT", "MQTT_TLS_KEY")),
        ({"MQTT_TLS_CA": "ca.pem"}, ("MQTT_TLS_", "MQTT_URL")),
    ],
)
def test_settings_that_do_not_fit_together_name_both(monkeypatch, given, named):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert all(name in str(raised.value) for name in named)


@pytest.mark.parametrize(
    ("url", "shown", "user"),
    [
        ("mqtt://localhost", "mqtt://localhost:1883", None),
        ("mqtts://broker.example", "mqtts://broker.example:8883", None),
        ("mqtt://ann:p%40ss@[::1]:1999", "mqtt://[::1]:1999", "ann"),
    ],
)
def test_broker_addresses(url, shown, user):
    broker = load_settings(mqtt_url=url).broker
    assert str(broker) == shown
    assert broker.username == user
    if broker.password is not None:
        assert broker.password.get_secret_value() == "p@ss"
        assert "p@ss" not in repr(broker)


@settings(max_examples=300, deadline=None)
@given(url=st.text(max_size=30) | st.text("mqts:/@[]%#?:.1a\n ", max_size=25).map("mqtt://".__add__))
def test_any_broker_url_is_an_address_or_one_line(url):
    try:
        address = broker_address(url)
    except ValueError as error:
        assert str(error).startswith("expected mqtt[s]://user:pass@host:port")  # noqa: PT017 - both ends are fine
    else:
        assert address.host
        assert 1 <= address.port <= 65535


def test_an_empty_value_is_as_good_as_none(monkeypatch):
    """As `${MQTT_TLS_CA:-}` in a compose file makes it."""
    optional = [name for name, field in Settings.model_fields.items() if field.default is None]
    assert {"database_url", "mqtt_share_group", "flush_max_rows", "api_write_tokens"} <= set(optional)
    for name in optional:
        monkeypatch.setenv(name.upper(), "")
    settings = load_settings()
    assert [getattr(settings, name) for name in optional] == [None] * len(optional)
    assert settings.database_label == "localhost:5432/energy_db"


def test_an_empty_convention_means_none(monkeypatch):
    monkeypatch.setenv("METER_ID_CONVENTION", "")
    assert load_settings().meter_id_convention == ""


def test_every_wrong_variable_is_named(monkeypatch):
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("LOG_FORMAT", "xml")
    with pytest.raises(SettingsError, match=r"^PORT: [^;\n]*; LOG_FORMAT: [^;\n]*$"):
        load_settings()


def test_no_secret_shows_in_the_settings_themselves():
    secrets = {"database_password": SECRET, "api_read_tokens": SECRET, "api_write_tokens": SECRET}
    settings = load_settings(mqtt_url=f"mqtt://u:{SECRET}@h", database_url=f"postgresql://u:{SECRET}@h/d", **secrets)
    for shown in (repr(settings), str(settings), repr(settings.broker), str(settings.broker), settings.database_label):
        assert SECRET not in shown


def test_an_env_file_that_is_no_text(elsewhere):
    (elsewhere / ".env").write_bytes(b"PORT=\xff\xfe")
    with pytest.raises(SettingsError, match=r"^\.env: is not UTF-8 text$"):
        load_settings()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails, even for root")
def test_an_env_file_that_cannot_be_read(elsewhere):
    (elsewhere / ".env").symlink_to("/proc/self/mem")
    with pytest.raises(SettingsError, match=r"^\.env: cannot be read: "):
        load_settings()


def test_the_five_make_a_url_with_everything_escaped():
    settings = load_settings(database_password="a/b@c:d", database_username="ü ser", database_name="x?y")
    assert settings.database_conninfo == "postgresql://%C3%BC%20ser:a%2Fb%40c%3Ad@localhost:5432/x%3Fy"
    assert settings.database_label == "localhost:5432/x?y"


def test_the_url_wins_over_the_five():
    settings = load_settings(database_host="other", database_url=f"postgresql://u:{SECRET}@db:5433/energy")
    assert settings.database_label == "db:5433/energy"
    assert SECRET not in repr(settings)


def test_env_file_below_environment_below_options(elsewhere, monkeypatch):
    (elsewhere / ".env").write_text("PORT=1\nHOST=a\nMETRICS_PORT=2\n")
    monkeypatch.setenv("HOST", "b")
    monkeypatch.setenv("METRICS_PORT", "3")
    settings = load_settings(metrics_port=4)
    assert (settings.port, settings.host, settings.metrics_port) == (1, "b", 4)


def test_a_running_up_answers_only_for_what_nobody_set(elsewhere, monkeypatch):
    (elsewhere / ".wattline").mkdir()
    running = {"pid": os.getpid(), "databaseUrl": "postgresql://up:1/energy_db", "mqttUrl": "mqtt://up:2"}
    (elsewhere / ".wattline" / "run.json").write_text(json.dumps(running))
    assert load_settings().broker.host == "localhost"
    assert load_settings(beside_up=True).database_label == "up:1/energy_db"
    assert load_settings(beside_up=True).broker.port == 2
    monkeypatch.setenv("DATABASE_HOST", "mine")
    (elsewhere / ".env").write_text("MQTT_URL=mqtt://mine")
    settings = load_settings(beside_up=True)
    assert (settings.database_label, settings.broker.host) == ("mine:5432/energy_db", "mine")


@pytest.mark.parametrize(
    "text",
    [
        '{"pid": 999999999, "mqttUrl": "mqtt://up:2"}',
        '{"pid": 1e400, "mqttUrl": "mqtt://up:2"}',
        f'{{"pid": {10**30}, "mqttUrl": "mqtt://up:2"}}',
        '{"mqttUrl": "mqtt://up:2"}',
        "[1]",
        '{"pid":',
        "",
    ],
)
def test_an_up_that_has_ended_or_left_half_a_file_answers_for_nothing(elsewhere, text):
    (elsewhere / ".wattline").mkdir()
    (elsewhere / ".wattline" / "run.json").write_text(text)
    assert load_settings(beside_up=True).broker.host == "localhost"


def test_no_reading_is_taken_that_retention_would_drop():
    assert load_settings(retention_days=7).reading_age_max_days == 7
    assert load_settings(retention_days=90).reading_age_max_days == 30
    assert load_settings().reading_age_max_days == 30


def test_half_the_window_is_one_batch():
    assert load_settings(max_inflight=1000).rows_per_flush_max == 500
    assert load_settings(max_inflight=1000, flush_max_rows=1000).rows_per_flush_max == 1000
