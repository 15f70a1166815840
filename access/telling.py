"""Has the broker read its files again: SIGHUP to the process that its pid file names. Nobody's connection is cut by it
but that of an account which is gone, or has another secret.

Mosquitto loses a signal that comes while it is still heeding another (it resets its note of it at the end), and one in
its first moments ends it. So two are never sent close to each other, and none to a process that has just begun.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from access.errors import AccessError
from access.folder import locked

PID_FILE = "mosquitto.pid"
TOLD = "told"
"""Its time is that of the last signal, and who sends one holds it locked."""
YOUNG_SECONDS = 2.0
# Heeding it takes 0.6 s of CPU for 10,000 connected clients (2.0.11 and 2.1.2), whose passwords are all checked again.
HEEDING_SECONDS_MIN = 1.0
CLIENTS_PER_SECOND = 5_000


def tell_broker(pid_file: Path, accounts: int) -> str:
    """Send the signal to the broker, which has `accounts` to read. Returns a line that says what came of it.

    It may wait for a moment. Raises AccessError.
    """
    how = "have it read its files again (kill -HUP, systemctl reload mosquitto)"
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
    except FileNotFoundError:
        return f"there is no {pid_file}: if the broker runs, {how}"
    except (OSError, ValueError):
        return f"{pid_file} cannot be read: if the broker runs, {how}"
    started = _start_of_mosquitto(pid)
    if started is None:
        return f"no broker runs as process {pid} of {pid_file}; it reads its files when it starts"
    try:
        with locked(pid_file.with_name(TOLD)) as told:
            heeding = HEEDING_SECONDS_MIN + accounts / CLIENTS_PER_SECOND
            last = os.fstat(told)
            due = max(started + YOUNG_SECONDS, last.st_mtime + heeding if last.st_size else 0.0)
            # No longer than that, whatever a clock says that was set back.
            time.sleep(min(max(0.0, due - time.time()), YOUNG_SECONDS + heeding))
            os.kill(pid, signal.SIGHUP)
            os.pwrite(told, b"SIGHUP\n", 0)
    except ProcessLookupError:
        return f"no broker runs as process {pid} of {pid_file}; it reads its files when it starts"
    except PermissionError:
        return f"the broker (process {pid}) belongs to another user: {how}"
    except OSError as error:
        raise AccessError(f"{error.filename or pid_file.parent}: {error.strerror}; {how}") from None
    return f"the broker (process {pid}) reads its accounts again"


def _start_of_mosquitto(pid: int) -> float | None:
    """When it started, by the clock; None for another program: after a crash the number may belong to anything."""
    try:
        process = psutil.Process(pid)
        return process.create_time() if process.name().startswith("mosquitto") else None
    except (psutil.Error, ValueError, OverflowError):
        return None
