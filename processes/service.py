"""A program with a moment at which it is ready: what PostgreSQL, the broker and wattline's own commands have in common.

Each says how it is prepared and when it is ready; starting, waiting and ending are the same for all. It never restarts
anything: that is the supervisor's.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from processes.child import Child, Program, last_lines
from processes.errors import ProcessError

PROBE_INTERVAL_SECONDS = 0.05


class Service(Child, ABC):
    """One program, which is prepared again at each launch."""

    name: str  # of its log and in run.json: postgres
    label: str  # as a person calls it: PostgreSQL
    start_seconds: float = 30.0
    stop_seconds: float = 20.0
    has_an_end: bool = False  # one that has done its work when it ends with status 0

    def __init__(self, log: Path | None) -> None:
        """`log` None: it writes where we do."""
        self.log = log

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
    def is_done(self) -> bool:
        """Whether it has ended because its work is done."""
        return self.has_an_end and self.exit_status == 0

    def launch(self) -> None:
        """Start the program and return at once."""
        if self.running:
            raise RuntimeError(f"{self.label} already runs")
        self.program = self.prepare()
        super().start()

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
                raise ProcessError(f"{self.label} was not ready within {seconds:.0f} s{why}; see {self.log or 'above'}")
            pause(PROBE_INTERVAL_SECONDS)

    def stop(self, timeout_seconds: float | None = None) -> None:
        """Ask it to end; past the deadline, make it. Returns when it has ended."""
        super().stop(self.stop_seconds if timeout_seconds is None else timeout_seconds)

    def why_it_ended(self) -> str:
        """One sentence and the last lines of its log."""
        how = f"{self.label} ended with status {self.exit_status}"
        if self.log is None:
            return how
        lines = last_lines(self.log).replace("\n", "\n  ")
        return f"{how}; {self.log} ends with:\n  {lines}"
