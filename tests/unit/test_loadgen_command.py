"""`wattline loadgen` with options that make no sense: one line that says which, exit status 2."""

from __future__ import annotations

import pytest

from wattline.cli import main


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it would publish; without that it says nothing else."""
    monkeypatch.setenv("MQTT_URL", "mqtt://127.0.0.1:1")


def refusal(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What it says; the exit status is 2 in any case."""
    try:
        status = main(["loadgen", *options])
    except SystemExit as exit_of_argparse:
        status = int(str(exit_of_argparse.code))
    assert status == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--meters", "-1"),
        ("--vehicles", "ten"),
        ("--vehicles", "1.5"),
        ("--interval", "0"),
        ("--interval", "nan"),
        ("--duration", "inf"),
        ("--duration", "-5"),
        ("--verify-timeout", "soon"),
        ("--connections", "0"),
        ("--prefix", "a/b"),
        ("--prefix", "x" * 101),
    ],
)
def test_an_impossible_value_is_named_with_its_option(
    capsys: pytest.CaptureFixture[str], options: tuple[str, str]
) -> None:
    last_line = refusal(capsys, *options).splitlines()[-1]
    assert f"argument {options[0]}: {options[1]!r}" in last_line


def test_a_fleet_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--meters, --vehicles are all 0" in refusal(capsys, "--meters", "0", "--vehicles", "0")


def test_an_endless_run_cannot_be_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--verify needs --duration" in refusal(capsys, "--verify")


def test_a_run_too_long_to_remember(capsys: pytest.CaptureFixture[str]) -> None:
    text = refusal(capsys, "--verify", "--meters", "10000", "--interval", "1", "--duration", "86400")
    assert "this run has 872,640,000 (at most 50,000,000)" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max", "--rate", "5"), "not allowed with argument"),
        (("--max", "--interval", "5"), "not allowed with argument"),
        (("--messages", "5"), "--messages needs --rate or --max"),
        (("--hours", "2", "--interval", "5"), "--hours and --interval do not go together"),
        (("--hours", "720"), "MAX_READING_AGE_DAYS, 30"),
        (("--hours", "719.5", "--late", "0.1"), "with --late goes back further"),
        (("--max", "--verify"), "--verify needs --duration"),
        (("--max", "--messages", "5", "--qos", "0", "--verify"), "--verify needs --qos 1"),
        (("--receipts", "--qos", "0"), "--receipts needs --mqtt-version 5 and --qos 1"),
        (("--receipts", "--mqtt-version", "3.1.1"), "--receipts needs --mqtt-version 5 and --qos 1"),
        (("--malformed", "1.5"), "argument --malformed: '1.5'"),
        (("--meters", "90000", "--connections", "90000"), "`ulimit -n 90064`"),
    ],
)
def test_what_does_not_go_together(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str) -> None:
    assert said in refusal(capsys, *options)


def test_a_wrong_setting(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_URL", "http://user:secret@localhost")
    text = refusal(capsys, "--duration", "1")
    assert "MQTT_URL" in text
    assert "secret" not in text
