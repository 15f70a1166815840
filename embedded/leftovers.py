"""Programs that outlived a killed `up`: found by what they are, ended, and never confused with a stranger.

A process id alone proves nothing, because ids are used again: a program is known by the folder that it works in, or
by id and start time together.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

PATIENCE_SECONDS = 10.0
INTERVAL_SECONDS = 0.05
START_TIME_TOLERANCE_SECONDS = 2.0  # the system clock may be set between two looks


def end_leftovers(name: str, folder: Path, signals: Sequence[signal.Signals] = (signal.SIGTERM,)) -> None:
    """End every process called `name` whose working directory is `folder`."""
    end(list(find_working_in(name, folder)), signals)


def find_working_in(name: str, folder: Path) -> Iterator[psutil.Process]:
    """Every process called `name` whose working directory is `folder`."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == name and Path(process.cwd()) == folder.resolve():
                yield process


def process_with(pid: int, started_at: float) -> psutil.Process | None:
    """The process of that id if it is still the one that started then."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if _alive(process) and abs(process.create_time() - started_at) < START_TIME_TOLERANCE_SECONDS:
            return process
    return None


def end(processes: Sequence[psutil.Process], signals: Sequence[signal.Signals] = (signal.SIGTERM,)) -> None:
    """Send each signal in turn, then SIGKILL, until all have gone."""
    for sign in (*signals, signal.SIGKILL):
        deadline = time.monotonic() + PATIENCE_SECONDS
        for process in filter(_alive, processes):
            with suppress(psutil.Error):
                process.send_signal(sign)
        while any(map(_alive, processes)):
            if time.monotonic() > deadline:
                break
            time.sleep(INTERVAL_SECONDS)


def _alive(process: psutil.Process) -> bool:
    """Not a zombie either: in a container nobody may ever collect those."""
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
