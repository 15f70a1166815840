"""wattline's commands as forks of one process that has imported all of them: importing is most of what a start costs.

A fork is a process like any other: it has settings, a folder, a log and signals of its own, can be killed, and ends
with the test run. What differs from `python -m wattline` is its command line in `ps`, and that the imports are done;
tests of what happens before those, and of `up`, start the real one.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from processes.child import Program

PR_SET_PDEATHSIG = 1
REQUEST_BYTES_MAX = 1_000_000


class ForkedChild:
    """What processes.child.Child is for a program, for one of wattline's commands."""

    def __init__(self, program: Program, arguments: Sequence[str]) -> None:
        self.program = program
        self.pid: int | None = None
        self._arguments = arguments
        self._status: int | None = None

    @property
    def exit_status(self) -> int | None:
        """None while it runs (or never ran); -N when signal N ended it."""
        if self._status is None and self.pid is not None:
            self._status = _ask({"status_of": self.pid})
        return self._status

    @property
    def running(self) -> bool:
        """Whether it has been started and not ended."""
        return self.pid is not None and self.exit_status is None

    def start(self) -> None:
        """Start it, with its output appended to its log."""
        program = self.program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        request = {"arguments": self._arguments, "environment": dict(program.environment)}
        self.pid = _ask({**request, "folder": str(program.directory), "log": str(program.log)})
        self._status = None

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        if self.pid is not None and self.exit_status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._status = _ask({"end_of": self.pid})


def _ask(request: Mapping[str, Any]) -> Any:
    requests, _ = _origin(os.getpid())
    requests.send(json.dumps(request).encode())
    return json.loads(requests.recv(REQUEST_BYTES_MAX))


@cache
def _origin(of: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The process that forks for the test process with this id, and the way to it; closed, it ends with its forks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            cwd=Path(__file__).parents[1],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    return ours, process


def _serve(requests: socket.socket) -> list[str] | None:
    """Fork when asked. Returns the arguments in a fork, None once nobody can ask any more."""
    while text := requests.recv(REQUEST_BYTES_MAX):
        request = json.loads(text)
        if pid := request.get("status_of") or request.get("end_of"):
            ended, status = os.waitpid(pid, 0 if "end_of" in request else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        elif (answer := os.fork()) == 0:
            requests.close()
            _become(request)
            return list(request["arguments"])
        requests.send(json.dumps(answer).encode())
    return None


def _become(request: Mapping[str, Any]) -> None:
    """Everything that a process of its own would have been started with."""
    origin = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if os.getppid() != origin:
        os.kill(os.getpid(), signal.SIGKILL)


def _main() -> int:
    from wattline.cli import COMMANDS, main  # noqa: PLC0415 - the tests themselves need none of it

    for module in [*(module for module, _ in COMMANDS.values()), "ingestor.service", "analytics_api.app"]:
        importlib.import_module(module)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        arguments = _serve(requests)
    return 0 if arguments is None else main(arguments)


if __name__ == "__main__":
    sys.exit(_main())
