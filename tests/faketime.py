"""A wrong clock for one child process: Debian's libfaketime in its LD_PRELOAD. The system's clock is never touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedded import debian
from embedded.cache import cached
from embedded.errors import EmbeddedError


class WrongClock:
    """The offset of a process's clock, that a test may change while the process runs."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }
        self.set(0)

    def set(self, seconds: int) -> None:
        """Ahead of the system's clock by `seconds`, or behind."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{seconds:+d}\n", encoding="ascii")
        draft.replace(self._file)


def wrong_clock(folder: Path) -> WrongClock:
    """Skips the test where the library cannot be had."""
    if not debian.available():
        pytest.skip("libfaketime comes from Debian's packages, and this system has no apt-get")
    try:
        root = cached("faketime", None, lambda draft: debian.unpack("libfaketime", draft))
    except EmbeddedError as error:
        pytest.skip(f"libfaketime could not be fetched: {error}")
    libraries = sorted(root.glob("usr/lib/*/faketime/libfaketime.so.1"))
    if not libraries:
        pytest.skip("the package libfaketime has no library for this system")
    return WrongClock(libraries[0], folder / "clock")
