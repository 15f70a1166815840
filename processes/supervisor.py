"""Restarts what ends by itself, after a wait that grows while it keeps ending. It decides; the loop is its caller's.

What ends (a crash, a `kill -9`, the database as well as the simulated fleet) is started again, and nothing else is:
each part finds the others again by itself.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from config.backoff import backoff_seconds
from processes.errors import ProcessError
from processes.service import Service

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
SETTLED_SECONDS = 60.0  # who ran this long has recovered: the next wait is the first again


@dataclass
class Restarts:
    """When to start it again."""

    started_at: float = 0.0
    in_a_row: int = 0

    def started(self, now: float) -> None:
        """It has just been started."""
        self.started_at = now

    def ended(self, now: float) -> float:
        """It has just ended; when to start it again."""
        self.in_a_row = 1 if now - self.started_at >= SETTLED_SECONDS else self.in_a_row + 1
        return now + backoff_seconds(self.in_a_row, least=FIRST_WAIT_SECONDS, most=LONGEST_WAIT_SECONDS)


class Supervisor:
    """The services that shall run from now on."""

    def __init__(self, services: Sequence[Service], now: float) -> None:
        self._watches = [_Watch(service, Restarts(started_at=now)) for service in services]

    def add(self, service: Service, now: float) -> None:
        """Another one, launched just now."""
        self._watches.append(_Watch(service, Restarts(started_at=now)))

    def look(self, now: float) -> Iterator[str]:
        """Notice who has ended and start whose time has come; a line for a person about each."""
        for watch in self._watches:
            yield from watch.look(now)


@dataclass
class _Watch:
    service: Service
    restarts: Restarts
    restart_at: float | None = None

    def look(self, now: float) -> Iterator[str]:
        if self.service.running or self.service.is_done:
            return
        if self.restart_at is None:
            self.restart_at = self.restarts.ended(now)
            where = f" (log: {self.service.log})" if self.service.log else ""
            yield f"{self.service.label} {_how_it_ended(self.service)}; restarting it{where}"
        elif now >= self.restart_at:
            self.restarts.started(now)
            try:
                self.service.launch()
                self.restart_at = None
            except (ProcessError, OSError) as error:
                self.restart_at = self.restarts.ended(now)
                yield f"{self.service.label} cannot be restarted: {error}"


def _how_it_ended(service: Service) -> str:
    status = service.exit_status or 0
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
