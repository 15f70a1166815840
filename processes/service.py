"""A program with a moment at which it is ready: what PostgreSQL, the broker and wattline's own commands have in common.

Each says how it is prepared and when it is ready; starting, waiting and ending are the same for all. It never restarts
anything: that is the supervisor's.
"""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from processes.child import Child, Program, last_lines
from processes.errors import ProcessError

PROBE_INTERVAL_SECONDS = 0.05


class Service(ABC):
    """One program, and its state."""

    name: str  # of its log and in run.json: postgres
    label: str  # as a person calls it: PostgreSQL
    start_seconds: float = 30.0
    stop_seconds: float = 20.0

    def __init__(self, log: Path) -> None:
        self.log = log
        self._child: Child | None = None

    @abstractmethod
    def prepare(self) -> Program:
        """Everything before a launch, again at each one. Raises ProcessError."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it does its work now. Quick, and never raises."""

    def why_not_ready(self) -> str:
        """What it says about it itself, in words that follow "not ready"; nothing where it says nothing."""
        return ""

    @property
    def pid(self) -> int | None:
        """The process id, also of one that has ended; None before the first launch."""
        return self._child.pid if self._child else None

    @property
    def running(self) -> bool:
        """Whether it has been launched and not ended."""
        return self._child is not None and self._child.running

    @property
    def exit_status(self) -> int | None:
        """None while it runs (or never did); -N when signal N ended it."""
        return self._child.exit_status if self._child else None

    def launch(self) -> None:
        """Start the program and return at once."""
        if self.running:
            raise RuntimeError(f"{self.label} already runs")
        self._child = Child(self.prepare())
        self._child.start()

    def start(self, timeout_seconds: float | None = None) -> None:
        """Launch, and wait until it is ready. Raises ProcessError with the log's end when it does not get there."""
        self.launch()
        self.wait_ready(timeout_seconds)

    def wait_ready(self, timeout_seconds: float | None = None, pause: Callable[[float], None] = time.sleep) -> None:
        """`pause` waits between two looks, and may raise to give up. Raises ProcessError, with the log's end."""
        seconds = timeout_seconds or self.start_seconds
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if not self.running:
                raise ProcessError(self.why_it_ended())
            if time.monotonic() > deadline:
                why = self.why_not_ready()
                self.kill()
                raise ProcessError(f"{self.label} was not ready within {seconds:.0f} s{why}; see {self.log}")
            pause(PROBE_INTERVAL_SECONDS)

    def stop(self, timeout_seconds: float | None = None) -> None:
        """Ask it to end; past the deadline, make it. Returns when it has ended."""
        if self._child is not None:
            self._child.stop(self.stop_seconds if timeout_seconds is None else timeout_seconds)

    def send(self, sign: signal.Signals) -> None:
        """Send a signal, if it runs, and wait for nothing; may be called from a signal handler."""
        if self._child is not None:
            self._child.send(sign)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        if self._child is not None:
            self._child.kill()

    def why_it_ended(self) -> str:
        """One sentence and the last lines of its log."""
        lines = last_lines(self.log).replace("\n", "\n  ")
        return f"{self.label} ended with status {self.exit_status}; {self.log} ends with:\n  {lines}"
