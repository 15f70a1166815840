"""wattline's commands as real child processes: started with their own settings, killed at will, never left behind.

ingest = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url)   # the fixture of that name
ingest.wait_ready()
ingest.kill()
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from embedded.ports import LOOPBACK, free_ports
from processes.child import Child, Program, last_lines
from tests.forks import ForkedChild
from tests.waiting import PATIENCE_SECONDS, wait_until

STOP_SECONDS = 30.0
# The last one is how `./dev test coverage` measures child processes as well.
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "XDG_CACHE_HOME", "COVERAGE_PROCESS_CONFIG")
# What Python or its imports look at before wattline's first line, and how `./dev test coverage` measures it.
_LOOKED_AT_BEFORE = r"LD_PRELOAD$|TZ$|LANG$|LC_|PYTHON|COVERAGE_"
_numbers = itertools.count(1)


class WattlineProcess:
    """`python -m wattline ...`, run in a folder of its own, so that no `.env` or `.wattline` is picked up."""

    def __init__(self, *arguments: str, folder: Path, open_files: int | None = None, **environment: str) -> None:
        """`open_files`: no more than so many at a time, of every sort."""
        self.http_port, self.metrics_port = free_ports(2)
        self.log = folder / f"{next(_numbers):03d}-{arguments[0]}.log"
        ours = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        ports = {"PORT": str(self.http_port), "METRICS_PORT": str(self.metrics_port)}
        limited = () if open_files is None else ("/bin/sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh")
        program = Program(
            name=arguments[0],
            command=(*limited, sys.executable, "-m", "wattline", *arguments),
            log=self.log,
            environment={**ours, **ports, **environment},
            directory=folder,
        )
        looked_at = any(re.match(_LOOKED_AT_BEFORE, name) for name in program.environment)
        forked = not limited and arguments[0] != "up" and not looked_at
        self._child: Child | ForkedChild = ForkedChild(program, arguments) if forked else Child(program)

    @property
    def pid(self) -> int:
        assert self._child.pid is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.running

    @property
    def http_url(self) -> str:
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self.metrics_port}"

    def start(self) -> None:
        """Start it; after an end also again, with the same settings and ports."""
        self._child.start()

    def wait_ready(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Until /readyz of `api` (on http_url) or of anything else (on metrics_url) answers 200."""
        base = self.http_url if self._child.program.name == "api" else self.metrics_url
        wait_until(lambda: not self.running or get_status(f"{base}/readyz") == 200, timeout, f"{base}/readyz")
        assert self.running, f"it ended:\n{last_lines(self.log, 20)}"

    def signal(self, sign: signal.Signals) -> None:
        os.kill(self.pid, sign)

    def wait(self, timeout: float = STOP_SECONDS) -> int:
        """Its exit status, once it has ended."""
        wait_until(lambda: not self.running, timeout, f"the end of {self._child.program.name}; see {self.log}")
        status = self._child.exit_status
        assert status is not None
        return status

    def stop(self, timeout: float = STOP_SECONDS) -> int:
        """SIGTERM; its exit status. AssertionError when it does not end in time."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self._child.kill()

    def end(self) -> None:
        """Kill it; where coverage is measured stop it first, for what is killed does not say which lines it ran."""
        if "COVERAGE_PROCESS_CONFIG" in os.environ and self.running:
            with suppress(AssertionError):
                self.stop(5.0)
        self.kill()

    def output(self) -> str:
        """All that it has logged and printed."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""


def get_status(url: str) -> int | None:
    """The status of a GET; None where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None
