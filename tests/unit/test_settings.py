"""Settings: a wrong value is one line that names its variable and holds no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.broker import broker_address
from config.errors import SettingsError
from config.near_misses import near_misses
from config.settings import Settings, load_settings
from tests.examples import examples
from tests.waiting import wait_until

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
        ("METER_MAX_KWH", "much"),
        ("VEHICLE_MAX_KWH", "0"),
        ("VEHICLE_MAX_KWH", "nan"),
        ("UNKNOWN_FIELDS", "drop"),
        ("FLUSH_INTERVAL_MS", "0"),
        ("FLUSH_INTERVAL_MS", "1.5"),
        ("RETENTION_DAYS", "-1"),
        ("MAX_READING_AGE_DAYS", "0"),
        ("METER_ID_CONVENTION", "VEH-"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
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
def test_settings_that_do_not_fit_together_name_both(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], named: tuple[str, str]
) -> None:
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
def test_broker_addresses(url: str, shown: str, user: str | None) -> None:
    broker = load_settings(mqtt_url=url).broker
    assert str(broker) == shown
    assert broker.username == user
    if broker.password is not None:
        assert broker.password.get_secret_value() == "p@ss"
        assert "p@ss" not in repr(broker)


@settings(max_examples=examples(300))
@given(url=st.text(max_size=30) | st.text("mqts:/@[]%#?:.1a\n ", max_size=25).map("mqtt://".__add__))
def test_any_broker_url_is_an_address_or_one_line(url: str) -> None:
    try:
        address = broker_address(url)
    except ValueError as error:
        assert str(error).startswith("expected mqtt[s]://user:pass@host:port")  # noqa: PT017 - both ends are fine
    else:
        assert address.host
        assert 1 <= address.port <= 65535


def test_an_empty_value_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `${MQTT_TLS_CA:-}` in a compose file makes it."""
    optional = [name for name, field in Settings.model_fields.items() if field.default is None]
    assert {"database_url", "mqtt_share_group", "flush_max_rows", "api_write_tokens"} <= set(optional)
    for name in optional:
        monkeypatch.setenv(name.upper(), "")
    settings = load_settings()
    assert [getattr(settings, name) for name in optional] == [None] * len(optional)
    assert settings.database_label == "localhost:5432/energy_db"


def test_an_empty_convention_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METER_ID_CONVENTION", "")
    assert load_settings().meter_id_convention == ""


def test_every_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("LOG_FORMAT", "xml")
    with pytest.raises(SettingsError, match=r"^PORT: [^;\n]*; LOG_FORMAT: [^;\n]*$"):
        load_settings()


def test_no_secret_shows_in_the_settings_themselves() -> None:
    secrets: dict[str, Any] = {"database_password": SECRET, "api_read_tokens": SECRET, "api_write_tokens": SECRET}
    settings = load_settings(mqtt_url=f"mqtt://u:{SECRET}@h", database_url=f"postgresql://u:{SECRET}@h/d", **secrets)
    for shown in (repr(settings), str(settings), repr(settings.broker), str(settings.broker), settings.database_label):
        assert SECRET not in shown


def test_an_env_file_that_is_no_text(elsewhere: Path) -> None:
    (elsewhere / ".env").write_bytes(b"PORT=\xff\xfe")
    with pytest.raises(SettingsError, match=r"^\.env: is not UTF-8 text$"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'PORT=1\nAPI_READ_TOKENS="{SECRET}\n', "line 2 is not NAME=value"),
        (f"=\n{SECRET} {SECRET}\n", "line 1 is not NAME=value"),
        ("# a comment\n\nAPI_READ_TOKENS\n", "API_READ_TOKENS has no value"),
    ],
)
def test_a_line_that_would_be_passed_over_is_said(elsewhere: Path, text: str, said: str) -> None:
    (elsewhere / ".env").write_text(text)
    with pytest.raises(SettingsError, match=rf"^\.env: .*{said}$") as raised:
        load_settings()
    assert SECRET not in str(raised.value)


def test_lines_of_other_programs_are_none_of_ours(elsewhere: Path) -> None:
    (elsewhere / ".env").write_text("OTHER\nexport PORT=7\nOTHER_TOO=x y # z\n")
    assert load_settings().port == 7


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails, even for root")
def test_an_env_file_that_cannot_be_read(elsewhere: Path) -> None:
    (elsewhere / ".env").symlink_to("/proc/self/mem")
    with pytest.raises(SettingsError, match=r"^\.env: cannot be read: "):
        load_settings()


def test_the_five_make_a_url_with_everything_escaped() -> None:
    settings = load_settings(database_password="a/b@c:d", database_username="ü ser", database_name="x?y")
    assert settings.database_conninfo == "postgresql://%C3%BC%20ser:a%2Fb%40c%3Ad@localhost:5432/x%3Fy"
    assert settings.database_label == "localhost:5432/x?y"


def test_the_url_wins_over_the_five() -> None:
    settings = load_settings(database_host="other", database_url=f"postgresql://u:{SECRET}@db:5433/energy")
    assert settings.database_label == "db:5433/energy"
    assert SECRET not in repr(settings)


def test_env_file_below_environment_below_options(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / ".env").write_text("PORT=1\nHOST=a\nMETRICS_PORT=2\n")
    monkeypatch.setenv("HOST", "b")
    monkeypatch.setenv("METRICS_PORT", "3")
    settings = load_settings(metrics_port=4)
    assert (settings.port, settings.host, settings.metrics_port) == (1, "b", 4)


@pytest.fixture(scope="module")
def up_pid() -> Iterator[Any]:
    """The id of a process that looks like a running `wattline up`."""
    waiting = [sys.executable, "-c", "input()", "-m", "wattline", "up"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate(b"\n")


def write_run(data_dir: Path, pid: object) -> Path:
    data_dir.mkdir(parents=True, exist_ok=True)
    running = {"pid": pid, "databaseUrl": "postgresql://up:1/energy_db", "mqttUrl": "mqtt://up:2"}
    (data_dir / "run.json").write_text(json.dumps(running))
    return data_dir


def places(**given: Any) -> tuple[str, str]:
    """Where a command beside `up` finds database and broker."""
    found = load_settings(beside_up=True, **given)
    return found.database_label, str(found.broker)


UP = ("up:1/energy_db", "mqtt://up:2")
DEFAULTS = ("localhost:5432/energy_db", "mqtt://localhost:1883")


def test_a_running_up_answers_where_nothing_is_set(elsewhere: Path, up_pid: int) -> None:
    write_run(elsewhere / ".wattline", up_pid)
    assert load_settings().broker.host == "localhost"
    assert places() == places(publishes=True) == UP


def test_a_running_up_answers_for_broker_and_database_or_for_neither(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, up_pid: int
) -> None:
    write_run(elsewhere / ".wattline", up_pid)
    monkeypatch.setenv("DATABASE_HOST", "mine")
    assert places() == ("mine:5432/energy_db", DEFAULTS[1])
    with pytest.raises(SettingsError, match=r"^MQTT_URL: is not set although DATABASE_HOST is; .*--data-dir"):
        places(publishes=True)
    (elsewhere / ".env").write_text("MQTT_URL=mqtt://mine")
    assert places(publishes=True) == ("mine:5432/energy_db", "mqtt://mine:1883")
    monkeypatch.delenv("DATABASE_HOST")
    assert places(publishes=True) == (DEFAULTS[0], "mqtt://mine:1883")


def test_the_data_directory_is_an_option_or_a_setting(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, up_pid: int
) -> None:
    other = write_run(elsewhere / "other", up_pid)
    assert places() == DEFAULTS
    assert places(data_dir=other) == UP
    monkeypatch.setenv("WATTLINE_DATA_DIR", str(other))
    assert places(publishes=True) == UP
    monkeypatch.setenv("MQTT_URL", "mqtts://mine")
    monkeypatch.setenv("MQTT_TLS_CA", "mine.pem")
    assert places(publishes=True) == (DEFAULTS[0], "mqtts://mine:8883")
    assert places(publishes=True, data_dir=other) == UP  # an option wins over the environment


def test_a_data_directory_that_is_named_has_a_running_up(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"^--data-dir: no `wattline up` runs in nowhere$"):
        places(data_dir=Path("nowhere"))
    monkeypatch.setenv("WATTLINE_DATA_DIR", str(elsewhere))
    with pytest.raises(SettingsError, match=r"^WATTLINE_DATA_DIR: no `wattline up` runs in "):
        places()


@pytest.mark.parametrize(
    "pid",
    [999_999_999, os.getpid(), 1e400, 10**30, -1, "7", None],
    ids=["nobody", "somebody else", "infinite", "huge", "negative", "text", "none"],
)
def test_an_up_that_has_ended_answers_for_nothing(elsewhere: Path, pid: float | str | None) -> None:
    """Also where its process id belongs to somebody else by now."""
    write_run(elsewhere / ".wattline", pid)
    assert places() == DEFAULTS
    with pytest.raises(SettingsError, match=r"^MQTT_URL: is not set, and .*\.wattline.*--data-dir"):
        places(publishes=True)


def test_an_up_whose_end_nobody_noticed_has_ended(elsewhere: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "", "-m", "wattline", "up"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()  # it has ended, and is a zombie until we wait for it
        write_run(elsewhere / ".wattline", process.pid)
        wait_until(lambda: places() == DEFAULTS, what="its end")


@pytest.mark.parametrize("text", ["[1]", '{"pid":', "", '{"pid": 1}', "\ufffd"])
def test_half_a_file_answers_for_nothing(elsewhere: Path, text: str) -> None:
    (elsewhere / ".wattline").mkdir()
    (elsewhere / ".wattline" / "run.json").write_text(text)
    assert places() == DEFAULTS
    with pytest.raises(SettingsError, match=r"^MQTT_URL: .* is not what `wattline up` writes; "):
        places(publishes=True)


def test_a_file_that_cannot_be_read_is_said(elsewhere: Path) -> None:
    (elsewhere / ".wattline" / "run.json").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"^MQTT_URL: is not set, and .*run\.json cannot be read: Is a directory; "):
        places(publishes=True)


def test_no_reading_is_taken_that_retention_would_drop() -> None:
    assert load_settings(retention_days=7).reading_age_max_days == 7
    assert load_settings(retention_days=90).reading_age_max_days == 30
    assert load_settings().reading_age_max_days == 30


def test_half_the_window_is_one_batch() -> None:
    assert load_settings(max_inflight=1000).rows_per_flush_max == 500
    assert load_settings(max_inflight=1000, flush_max_rows=1000).rows_per_flush_max == 1000


def test_a_limit_of_energy_is_read_for_whatever_kind_there_is(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / ".env").write_text("METER_MAX_KWH=3\nINVERTER_MAX_KWH=7.5\n", encoding="utf-8")
    monkeypatch.setenv("METER_MAX_KWH", "500")
    assert load_settings().max_kwh == {"meter": 500, "inverter": 7.5}
    monkeypatch.setenv("METER_MAX_KWH", "")
    assert load_settings().max_kwh == {"inverter": 7.5}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RETENTION_DAY", "RETENTION_DAYS"),
        ("retention_day", "RETENTION_DAYS"),
        ("RETENTIONS_DAYS", "RETENTION_DAYS"),
        ("DATABASE_USER", "DATABASE_USERNAME"),
        ("API_WRITE_TOKEN", "API_WRITE_TOKENS"),
        ("MQTT_URI", "MQTT_URL"),
        ("SILENT_AFTER", "SILENT_AFTER_SECONDS"),
        ("MAX_CLOCK_SKEW", "MAX_CLOCK_SKEW_SECONDS"),
        ("METER_MAX_KW", "METER_MAX_KWH"),
        ("vehicle_max_kwhs", "VEHICLE_MAX_KWH"),
        ("INVERTER_MAX_KWH", None),  # a kind that somebody may have
        ("JAVA_MAX_MEM", None),
        *(
            (name, None)
            for name in ("PATH", "POST", "PORTS", "HOSTNAME", "LOG_DIR", "MQTT_PORT", "API_KEY", "mqtt_url")
        ),
        ("DATABASE_SERVICE_HOST", None),
    ],
)
def test_a_near_miss_is_told_from_the_names_of_others(name: str, meant: str | None) -> None:
    known = {field.upper() for field in Settings.model_fields}
    assert near_misses([name], known) == ({} if meant is None else {name: meant})


def test_a_near_miss_is_said_once_with_the_setting_that_was_meant_and_without_its_value(elsewhere: Path) -> None:
    """Whether it is in the environment or in `.env`."""
    (elsewhere / ".env").write_text(f"RETENTION_DAY={SECRET}\n", encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "-c", "from config.settings import load_settings; load_settings(); load_settings()"],
        cwd=elsewhere,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "MQTT_URI": SECRET},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = finished.stderr.splitlines()
    assert first.endswith("MQTT_URI is no setting, and has no effect; MQTT_URL is one")
    assert second.endswith("RETENTION_DAY is no setting, and has no effect; RETENTION_DAYS is one")
    assert SECRET not in finished.stderr
