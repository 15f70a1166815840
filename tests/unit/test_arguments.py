"""Numbers on a command line: what is taken, and what is said of the rest."""

from __future__ import annotations

import argparse
import math
import re

import pytest

from config.arguments import number, port, whole_number

SHARE = number(0, 1)
INTERVAL = number(0.1, 86_400.0, or_zero=True)
MOST_ID = 2**63 - 1


def test_limits_are_included() -> None:
    assert [SHARE("0"), SHARE("1"), SHARE("0.5")] == [0, 1, 0.5]
    assert [port("0"), port("65535")] == [0, 65_535]
    assert [INTERVAL("0"), INTERVAL("0.1")] == [0, 0.1]
    assert whole_number(1, MOST_ID)(str(MOST_ID)) == MOST_ID


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "inf", "-inf", "", "half", "1e999"])
def test_what_is_no_share_is_named(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=rf"^{re.escape(repr(text))} is not a number from 0 to 1$"):
        SHARE(text)


@pytest.mark.parametrize("text", ["-1", "65536", "1.0", "http", ""])
def test_what_is_no_port_is_named(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=rf"^'{re.escape(text)}' is not a whole number from 0 to"):
        port(text)


def test_zero_is_the_only_number_below_the_least() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"'0\.05' is not a number from 0\.1 to 86,400"):
        INTERVAL("0.05")


def test_a_long_text_is_cut_and_a_large_limit_is_exact() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=rf"^'9{{40}}' is not a whole number from 1 to {MOST_ID:,}$"):
        whole_number(1, MOST_ID)("9" * 5000)
    assert math.isfinite(number(0, 1e300)("1e300"))
