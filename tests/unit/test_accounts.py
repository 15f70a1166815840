"""The broker's accounts as the two files of Mosquitto: nothing of anybody's is lost in them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from access.accounts import Accounts
from access.certificates import is_good_for, issue, make_authority
from access.errors import AccessError
from access.folder import changing, read
from access.lists import read_devices
from access.passwords import is_password_of, new_secret, password_line
from access.rights import DEVICE, HEADER, account_of, device_of, patterns
from access.telling import tell_broker
from config.errors import BAD_USAGE, FAILED, OK
from telemetry.kinds import KINDS
from wattline.cli import main

SECRET = "a secret of twelve and more"
IDS = st.from_regex(r"[A-Za-z0-9._:-]{1,100}", fullmatch=True)


def test_a_fresh_folder_has_the_patterns_and_nobody() -> None:
    accounts = Accounts.parse("", "")
    assert accounts.password_file() == ""
    assert accounts.acl_file() == HEADER + "".join(f"{line}\n" for line in patterns())
    assert [f"pattern write v1/telemetry/{kind.name}/%u" in patterns() for kind in KINDS] == [True] * len(KINDS)


def test_what_a_person_wrote_stays() -> None:
    passwords = "# ours\nann:$7$101$c2FsdA==$aGFzaA==\n"
    acl = "# mine\ntopic read public/#\npattern write  v1/telemetry/meter/%u\n\n"
    acl += "user ann\ntopic read v1/telemetry/#\n# why\n"
    accounts = Accounts.parse(passwords, acl)
    accounts.add(["METER-1"], DEVICE, [SECRET])
    accounts.add(["wattline-monitor"], "monitor", [SECRET])
    accounts.remove(["METER-1", "wattline-monitor"])
    assert accounts.password_file() == passwords
    text = accounts.acl_file()
    assert text.startswith("# mine\ntopic read public/#\npattern write  v1/telemetry/meter/%u\n")
    assert text.endswith("\nuser ann\ntopic read v1/telemetry/#\n# why\n")
    assert text.count("v1/telemetry/meter/%u") == 1  # and the patterns that were missing are there once
    assert Accounts.parse(passwords, text).acl_file() == text
    assert accounts.role_of("ann") == "other"


@given(st.lists(IDS, unique=True, max_size=5))
def test_every_device_has_an_account_and_is_found_by_it(devices: list[str]) -> None:
    devices = [device for device in devices if device not in ("telemetry", "receipts") and device[:9] != "wattline-"]
    accounts = Accounts.parse("", "")
    accounts.add(devices, DEVICE, [SECRET] * len(devices))
    again = Accounts.parse(accounts.password_file(), accounts.acl_file())
    assert [device_of(name) for name in again.passwords] == devices
    assert all(again.role_of(name) == DEVICE for name in again.passwords)
    for device in devices:
        assert ":" not in account_of(device)
        assert (f"topic write v1/telemetry/meter/{device}\n" in again.acl_file()) == (":" in device)
    again.remove(devices)
    assert (again.passwords, again.sections) == ({}, {})


def test_what_may_not_be_is_refused_and_changes_nothing() -> None:
    accounts = Accounts.parse("", "")
    accounts.add(["A"], DEVICE, [SECRET])
    before = accounts.password_file()
    for names, role, said in (
        (["B", "A"], DEVICE, "there already, and nothing was added: A; `wattline devices rotate`"),
        (["telemetry"], DEVICE, "a device may not be called telemetry"),
        (["receipts"], DEVICE, "a device may not be called receipts"),
        (["wattline-x"], DEVICE, "a device may not be called wattline-x"),
        (["METER-1"], "gateway", "has a name that begins with wattline-"),
        (["telemetry"], "monitor", "has a name that begins with wattline-"),
    ):
        with pytest.raises(AccessError, match=said):
            accounts.add(names, role, [SECRET] * len(names))
    for change in (accounts.remove, lambda names: accounts.rotate(names, [SECRET])):
        with pytest.raises(AccessError, match="no such account, and nothing was changed: C"):
            change(["C"])
    assert accounts.password_file() == before


def test_a_password_line_is_one_of_its_secret_only() -> None:
    secret = new_secret()
    line = password_line("A", secret)
    assert line != password_line("A", secret)
    assert is_password_of(line, secret)
    assert not is_password_of(line, secret + "x")
    assert secret not in line


def test_a_certificate_is_good_for_its_hosts_and_for_a_month_at_least() -> None:
    authority = make_authority("ours")
    hosts = ["broker.example.com", "127.0.0.1", "::1"]
    assert is_good_for(issue(authority, "x", hosts=hosts).certificate, hosts)
    assert not is_good_for(issue(authority, "x", hosts=hosts).certificate, ["other.example.com"])
    assert not is_good_for(issue(authority, "x", hosts=hosts, days=20).certificate, hosts)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no devices"),
        ("device\n", "has no devices"),
        ("A\nB\nA\n", "line 3: A is there twice"),
        ("A\nB/C\n", "line 2: 'B/C' is no device's id, which has 1 to 100 characters"),
        ("A,short\n", "line 1: a password has 12 to 200 characters"),
        (b"\xff\xfe\x00", "is no CSV text"),
        (None, "No such file or directory"),
    ],
)
def test_a_list_that_is_none_is_refused_by_its_line(tmp_path: Path, text: str | bytes | None, said: str) -> None:
    file = tmp_path / "devices.csv"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AccessError, match=said):
        read_devices(str(file))


def test_a_list_is_read_with_and_without_heading_and_passwords(tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    file.write_text(f'\ufeffdeviceId\nA\n\n B , "{SECRET}"\nC,C,{SECRET}\n')
    entries = read_devices(str(file))
    assert [entry.device for entry in entries] == ["A", "B", "C"]
    assert [entry.secret == SECRET for entry in entries] == [False, True, True]


# The command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "access"
    made.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROKER_ACCESS_DIR", str(made))
    return made


def test_devices_come_and_go(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "add", "METER-1", "AA:BB"]) == OK
    out, err = capsys.readouterr()
    rows = [line.split(",") for line in out.splitlines()]
    assert rows[0] == ["device", "username", "password"]
    assert [row[:2] for row in rows[1:]] == [["METER-1", "METER-1"], ["AA:BB", "AA%3ABB"]]
    assert f"added 2 accounts; there is no {folder}/mosquitto.pid: if the broker runs, have it read" in err
    assert is_password_of(read(folder).passwords["METER-1"], rows[1][2])
    assert all(oct(file.stat().st_mode)[-3:] == "600" for file in (folder / "passwords", folder / "acl"))
    assert not any(secret in (folder / "passwords").read_text() for _, _, secret in rows[1:])

    (tmp_path / "more.csv").write_text("VEH-1\nVEH-2\n")
    assert main(["devices", "add", "--csv", "more.csv", "--out", "secrets.csv"]) == OK
    out, err = capsys.readouterr()
    assert out == ""
    assert "the secrets are in secrets.csv, and nowhere else" in err
    assert oct((tmp_path / "secrets.csv").stat().st_mode)[-3:] == "600"
    assert main(["devices", "rotate", "VEH-1"]) == OK
    capsys.readouterr()
    assert main(["devices", "add", "wattline-api-2", "--as", "gateway"]) == OK
    capsys.readouterr()
    assert main(["devices", "list"]) == OK
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "AA:BB\tdevice", "METER-1\tdevice", "VEH-1\tdevice", "VEH-2\tdevice", "wattline-api-2\tgateway",
    ]  # fmt: skip
    assert "4 devices, 1 gateway" in err
    assert main(["devices", "remove", "--csv", "secrets.csv"]) == OK
    capsys.readouterr()
    assert main(["devices", "list", "--prefix", "VEH"]) == OK
    assert capsys.readouterr().out == ""


def test_nothing_changes_where_the_secrets_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("precious")
    assert main(["devices", "add", "METER-1", "--out", "there.csv"]) == FAILED
    assert main(["devices", "add", "METER-1", "--out", "no/such/folder.csv"]) == FAILED
    assert (tmp_path / "there.csv").read_text() == "precious"
    assert read(folder).passwords == {}
    assert main(["devices", "add", "METER-1"]) == OK
    assert main(["devices", "add", "METER-1", "METER-2", "--out", "new.csv"]) == FAILED
    assert not (tmp_path / "new.csv").exists()
    assert list(read(folder).passwords) == ["METER-1"]


def test_a_mistake_is_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, said in (
        (["add"], BAD_USAGE, "which devices? Name them, or a file of them: --csv FILE"),
        (["remove", "METER-1"], FAILED, "no such account, and nothing was changed: METER-1"),
        (["list", "--access-dir", "nowhere"], BAD_USAGE, "nowhere is no folder"),
        (["list", "--data-dir", "nowhere"], BAD_USAGE, "where are the broker's accounts?"),
    ):
        assert main(["devices", *arguments]) == status
        assert said in capsys.readouterr().err
    monkeypatch.delenv("BROKER_ACCESS_DIR")
    assert main(["devices", "list"]) == BAD_USAGE
    assert "where are the broker's accounts? Set BROKER_ACCESS_DIR" in capsys.readouterr().err


ANOTHER = """
import sys
from pathlib import Path
from access.folder import changing
print("ready", flush=True)
with changing(Path(sys.argv[1])) as accounts:
    accounts.add(["B"], "device", [sys.argv[2]])
"""


def test_two_at_a_time_lose_nothing(folder: Path) -> None:
    with changing(folder) as accounts:
        accounts.add(["A"], DEVICE, [SECRET])
        other = subprocess.Popen([sys.executable, "-c", ANOTHER, str(folder), SECRET], stdout=subprocess.PIPE)
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
    assert other.wait(30) == 0
    other.stdout.close()
    assert list(read(folder).passwords) == ["A", "B"]


def test_a_number_that_is_no_brokers_any_more_gets_no_signal(tmp_path: Path) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _frame: received.append(number))
    try:
        file = tmp_path / "mosquitto.pid"
        for text, said in (
            (str(os.getpid()), "no broker runs as process"),
            ("x", "cannot be read"),
            ("-1", "no broker"),
        ):
            file.write_text(text)
            assert said in tell_broker(file, 0)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert received == []
