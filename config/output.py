"""What a command prints: lines on standard output. The log and errors go elsewhere (`logging`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

NAMES_SHOWN_MAX = 20


def say(lines: Iterable[str], file: TextIO | None = None) -> None:
    """To `file`, by default standard output. Once nobody reads any more (`| head`) into nothing: the work goes on."""
    file = file or sys.stdout
    try:
        for line in lines:
            file.write(line + "\n")
        file.flush()
    except BrokenPipeError:
        # Python flushes once more at exit, and must find an open door.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 reading`, `2 readings`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def first_few(names: Sequence[object]) -> str:
    """`A, B`, and how many more where there are many."""
    more = len(names) - NAMES_SHOWN_MAX
    return ", ".join(map(str, names[:NAMES_SHOWN_MAX])) + (f" and {more:,} more" if more > 0 else "")
