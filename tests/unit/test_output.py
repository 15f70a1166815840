"""What commands print, also when nobody reads it to the end."""

import os

import pytest

from config.output import NAMES_SHOWN_MAX, counted, first_few, say


def test_work_goes_on_once_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        say(["a line"] * 20_000, file)
        say(["one more"], file)


def test_lines_reach_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    say(iter(["first", "second"]))
    assert capsys.readouterr().out == "first\nsecond\n"


def test_counts_and_names_are_short() -> None:
    assert (counted(1, "reading"), counted(2_000, "reading")) == ("1 reading", "2,000 readings")
    assert counted(0, "battery", "batteries") == "0 batteries"
    assert first_few(["A", "B"]) == "A, B"
    assert first_few(range(NAMES_SHOWN_MAX + 3)).endswith("18, 19 and 3 more")
