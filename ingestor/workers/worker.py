"""A worker, as its group sees it: a `wattline ingest` of its own, whose health and metrics are on a socket of ours.

The socket is made once and handed to every process that becomes this worker, so that no port has to be free again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from http import HTTPStatus

from processes.asking import LOOPBACK, ask, fetch
from processes.child import Program
from processes.service import Service

METRICS_SECONDS = 5.0
"""A worker that is busy answers late; Prometheus waits for 10 s."""


class Worker(Service):
    """One of several."""

    def __init__(self, number: int, arguments: Sequence[str], *, leaves: bool = False) -> None:
        """`arguments` are options of `wattline ingest` that each worker gets. One that `leaves` does not stay."""
        super().__init__(log=None)
        self.number = number
        self.name = f"worker-{number}"
        self.label = f"worker {number}"
        self.has_an_end = leaves
        self.was_ready = False
        """Since its group began; it may have been another process."""
        self._socket = socket.create_server((LOOPBACK, 0))
        options = ("--leave",) if leaves else ()
        self._arguments = (*arguments, *options, "--worker", str(number), str(self._socket.fileno()))
        self.answers = False
        """Whether its present process has answered yet."""
        self._owes_a_hangup = False

    @property
    def has_been_heard(self) -> bool:
        """Whether nothing more is to be learned of it at the moment."""
        return self.answers and self.was_ready

    def prepare(self) -> Program:
        """The same program as we are, which writes into our log; it ends in order where we are killed."""
        self.answers = self._owes_a_hangup = False
        return Program(
            name=self.name,
            command=(sys.executable, "-m", "wattline", "ingest", *self._arguments),
            log=None,
            environment=os.environ,
            orphan_signal=signal.SIGTERM,
            descriptors=(self._socket.fileno(),),
        )

    def is_ready(self) -> bool:
        """Whether it does its work now."""
        return self.running and fetch(self._port, "/readyz") is not None

    async def problems(self) -> list[str]:
        """What keeps it from being ready, in its own words."""
        if not self.running:
            return ["does not run"]
        status, answer = await asyncio.to_thread(ask, self._port, "/readyz")
        if not status:
            return ["does not answer"]
        self._is_there()
        if status == HTTPStatus.OK:
            self.was_ready = True
            return []
        return list(json.loads(answer).get("problems", ["is too busy to say"]))

    async def metrics(self) -> str | None:
        """Its /metrics; None where it does not answer."""
        if not self.running:
            return None
        return await asyncio.to_thread(fetch, self._port, "/metrics", METRICS_SECONDS)

    def hang_up(self) -> None:
        """SIGHUP, once it is there to take it: a Python that just starts would end by it."""
        self._owes_a_hangup = True
        if self.answers:
            self._is_there()

    def close(self) -> None:
        """Nobody is to become this worker any more."""
        self._socket.close()

    def _is_there(self) -> None:
        self.answers = True
        if self._owes_a_hangup:
            self._owes_a_hangup = False
            self.send(signal.SIGHUP)

    @property
    def _port(self) -> int:
        return int(self._socket.getsockname()[1])
