"""What a person can mend, in one line for that person. `wattline/cli.py` alone prints it and ends with its exit status.

Each room has small children of these, for what its callers do next; a mistake of wattline itself is none of them, and
keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar

OK, FAILED, BAD_USAGE = 0, 1, 2
"""The exit statuses of every command."""


class WattlineError(Exception):
    """The message is one line: what is wrong and what to do. It holds no secret."""

    exit_status: ClassVar[int] = FAILED


class UsageError(WattlineError):
    """Something was asked for that makes no sense; nothing was tried."""

    exit_status = BAD_USAGE


class SettingsError(UsageError):
    """A setting is wrong; the message names it."""
