"""wattline's own commands as services: each a child process that gets everything by its environment.

They see the settings of `up` (environment, `.env`) except those that `up` itself decides: where the servers are and
which ports to use.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from embedded.child import Program
from embedded.ports import LOOPBACK
from embedded.service import Service

PROBE_SECONDS = 1.0


class WattlineCommand(Service):
    """`python -m wattline COMMAND ...`; ready when its /readyz answers 200, or at once where it has none."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        ready_port: int | None = None,
    ) -> None:
        super().__init__(log)
        self.name = name
        self.label = f"wattline {arguments[0]}"
        self._arguments = arguments
        self._environment = environment
        self._ready_port = ready_port

    def prepare(self) -> Program:
        """Nothing to prepare."""
        # libpq takes what the URL leaves out from PG... variables, and a PGPASSWORD would win over the password file.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return Program(
            name=self.name,
            command=(sys.executable, "-m", "wattline", *self._arguments),
            log=self.log,
            environment={**inherited, **self._environment},
        )

    def is_ready(self) -> bool:
        """Whether it does its work now."""
        return self.running and (self._ready_port is None or fetch(self._ready_port, "/readyz") is not None)


def fetch(port: int, path: str) -> str | None:
    """The body of a 200 from loopback; None for anything else, and where nobody answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException, UnicodeDecodeError):
        return None
    finally:
        connection.close()
    return body if response.status == http.client.OK else None
