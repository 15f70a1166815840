"""Numbers on a command line: types for argparse, which say what was expected instead; options of several commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable

PORT_MAX = 65_535
SHOWN_CHARACTERS = 40
LIST_MAX = 1_000
ID_MAX = 2**63 - 1  # PostgreSQL's bigint


def number(least: float, most: float, *, or_zero: bool = False) -> Callable[[str], float]:
    """A number from `least` to `most`, both included; `or_zero` takes 0 too, where `least` is above it."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise _refused(text, "a number", least, most) from None
        if not least <= value <= most and not (or_zero and value == 0):  # NaN is refused here too
            raise _refused(text, "a number", least, most)
        return value

    return parse


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A whole number from `least` to `most`, both included."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise _refused(text, "a whole number", least, most) from None
        if not least <= value <= most:
            raise _refused(text, "a whole number", least, most)
        return value

    return parse


port = whole_number(0, PORT_MAX)
"""A port; 0 is any free one."""


row_id = whole_number(1, ID_MAX)
"""The number of a row."""


def add_limit(parser: argparse.ArgumentParser) -> None:
    """`--limit` of a command that lists."""
    limit = whole_number(1, LIST_MAX)
    help_text = f"how many, 1-{LIST_MAX} (default %(default)s)"
    parser.add_argument("--limit", type=limit, default=20, metavar="N", help=help_text)


def _refused(text: str, what: str, least: float, most: float) -> argparse.ArgumentTypeError:
    highest = f"{most:,}" if isinstance(most, int) else f"{most:,.0f}"
    return argparse.ArgumentTypeError(f"{text[:SHOWN_CHARACTERS]!r} is not {what} from {least:g} to {highest}")
