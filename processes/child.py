"""A program that runs beside us: started with a log file, tied to our life, stopped under a deadline.

On Linux a child gets a signal when we die, however we die; elsewhere a killed parent leaves it behind. Children are
sessions of their own, so that a Ctrl-C at the terminal reaches only us and we choose the order of stopping. Start
them from the main thread: the tie is to the thread that starts them. It never restarts anything.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from processes import tether

LOG_BYTES_MAX = 10_000_000  # a log is set aside (one generation) when a start finds it larger
IMPATIENT_SECONDS = 2.0  # what each signal after the first, polite one is given


@dataclass(frozen=True)
class Account:
    """The unprivileged user to become, when we are root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Program:
    """What to run, and how it wants to be ended."""

    name: str
    command: Sequence[str]
    log: Path | None  # None = where we log ourselves
    environment: Mapping[str, str]
    directory: Path | None = None
    account: Account | None = None
    stop_signals: tuple[signal.Signals, ...] = (signal.SIGTERM,)  # the first is polite; SIGKILL comes after the last
    orphan_signal: signal.Signals = signal.SIGKILL
    descriptors: tuple[int, ...] = ()  # open ones of ours that it shall have too, under the same numbers


class Child:
    """One running program, or the place for it."""

    _process: subprocess.Popen[bytes] | None = None

    def __init__(self, program: Program) -> None:
        self.program = program

    @property
    def pid(self) -> int | None:
        """The process id, also of one that has ended; None before the first start."""
        return self._process.pid if self._process else None

    @property
    def exit_status(self) -> int | None:
        """None while it runs (or never ran); -N when signal N ended it."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """Whether it has been started and not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, with its output appended to its log."""
        if self.running:
            raise RuntimeError(f"{self.program.name} already runs")
        program = self.program
        account = program.account
        who = (account.uid, account.gid) if account else (-1, -1)
        tie = [str(os.getpid()), str(int(program.orphan_signal)), *map(str, who)]
        with _open_log(program.log) if program.log else nullcontext() as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, *tie, *program.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=program.directory,
                env=dict(program.environment),
                start_new_session=True,
                pass_fds=program.descriptors,
            )

    def stop(self, timeout_seconds: float) -> None:
        """Ask politely and wait so long, then ask less politely, then kill. Returns when it has ended."""
        process, patience = self._process, timeout_seconds
        if process is None:
            return
        for sign in (*self.program.stop_signals, signal.SIGKILL):
            if process.poll() is not None:
                return
            process.send_signal(sign)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            patience = IMPATIENT_SECONDS
        process.wait()

    def send(self, sign: signal.Signals) -> None:
        """Send a signal, if it runs, and wait for nothing."""
        if self._process is not None:
            self._process.send_signal(sign)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def last_lines(log: Path | None, count: int = 5, since: int = 0) -> str:
    """The end of a log, no older than its byte `since`: for an error that has to say why a program ended."""
    if log is None:
        return ""
    try:
        with log.open("rb") as file:
            file.seek(max(since, log.stat().st_size - 10_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-count:])


def _open_log(log: Path) -> BinaryIO:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".1"))
    return log.open("ab")
