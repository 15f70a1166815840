"""Programs that outlived a killed `up`: found by what anybody may see of them, ended, never confused with a stranger.

A process id alone proves nothing, because ids are used again. A server carries the mark of its data folder in its
command line; any other program is known by its id and its birth. Neither needs a right: in a container root may not
look at the working directory of another user's process.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

PATIENCE_SECONDS = 10.0
INTERVAL_SECONDS = 0.05
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Fields of /proc/PID/stat behind the name in parentheses, which may itself hold blanks and parentheses.
STAT_STATE = 0
STAT_START_TICKS = 19
ENDED_STATES = ("Z", "X")


def mark_of(folder: Path) -> str:
    """What a server of this folder carries in its command line: the folder's identity, not its name.

    So it holds under another name of the same folder, and neither for a copy nor for the same name in a container.
    """
    status = folder.stat()
    return f"wattline-{status.st_dev:x}-{status.st_ino:016x}"


def end_leftovers(name: str, folder: Path, signals: Sequence[signal.Signals] = (signal.SIGTERM,)) -> None:
    """End every process called `name` that carries the mark of `folder`."""
    end(list(find_marked(name, folder)), signals)


def find_marked(name: str, folder: Path) -> Iterator[psutil.Process]:
    """Every living process called `name` that carries the mark of `folder`."""
    mark = mark_of(folder)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == name and any(mark in part for part in process.cmdline()):
                yield process


def birth_of(pid: int) -> str | None:
    """When that process began, so that no other one ever has the same id and birth; None where it has ended.

    On Linux in the kernel's own ticks, which do not move when somebody sets the clock.
    """
    try:
        if sys.platform != "linux":
            process = psutil.Process(pid)
            return f"{process.create_time():.0f}" if is_alive(process) else None
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (OSError, psutil.Error):
        return None
    return None if fields[STAT_STATE] in ENDED_STATES else f"{_boot()}/{fields[STAT_START_TICKS]}"


def process_born(pid: int, birth: str) -> psutil.Process | None:
    """The process of that id if it is still the one of that birth."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if birth_of(pid) == birth:
            return process
    return None


def end(processes: Sequence[psutil.Process], signals: Sequence[signal.Signals] = (signal.SIGTERM,)) -> None:
    """Send each signal in turn, then SIGKILL, until all have gone."""
    for sign in (*signals, signal.SIGKILL):
        deadline = time.monotonic() + PATIENCE_SECONDS
        for process in filter(is_alive, processes):
            with suppress(psutil.Error):
                process.send_signal(sign)
        while any(map(is_alive, processes)):
            if time.monotonic() > deadline:
                break
            time.sleep(INTERVAL_SECONDS)


def is_alive(process: psutil.Process) -> bool:
    """Not a zombie either: in a container nobody may ever collect those."""
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


@cache
def _boot() -> str:
    """Ticks begin again with the machine."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "this boot"
