"""What a test run needs of the machine: said at its end in plain words, where a test failed and something is missing.

It never fails or skips anything by itself, but for the browser, whose tests ask here.
"""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psutil

from embedded.account import account_for
from embedded.errors import EmbeddedError
from embedded.mosquitto_program import mosquitto_program
from embedded.ports import LOOPBACK
from embedded.postgres_programs import postgres_programs

OPEN_FILES_MIN = 1024
FREE_DISK_MB_MIN = 2000
FREE_MEMORY_MB_MIN = 1000
BUSY_LOAD_PER_CORE = 3.0
PROBE_SECONDS = 30
MB = 1_000_000
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@cache
def chromium() -> tuple[str | None, str]:
    """The system's browser, or None and one line that says what is missing."""
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        return None, "no Chromium on PATH; install chromium (Debian, Ubuntu: apt-get install chromium)"
    for what, command, package in (
        ("playwright's driver", [sys.executable, "-m", "playwright", "--version"], "libatomic1"),
        (program, [program, "--version"], "chromium"),
    ):
        said = _why_not(command)
        if said is not None:
            return None, f"{what} does not run here: {said} (Debian, Ubuntu: apt-get install {package})"
    return program, ""


def missing() -> list[str]:
    """One line each; nothing where the machine has all that the tests need."""
    return [line for look in _LOOKS for line in look()]


def _servers() -> Iterator[str]:
    """What brings PostgreSQL and the broker, and the user that runs them for root."""
    try:
        account = account_for(Path(tempfile.gettempdir()) / "no such folder")
        postgres_programs(account).major_version()
        mosquitto_program(account)
    except EmbeddedError as error:
        yield str(error)
    except OSError as error:
        yield f"{error.filename}: {error.strerror}"


def _network() -> Iterator[str]:
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=PROBE_SECONDS).close()
    except OSError as error:
        yield f"{LOOPBACK} cannot be listened on and reached: {error.strerror}"
    try:
        socket.getaddrinfo("localhost", 1883, family=socket.AF_INET)
    except OSError as error:
        yield f"the name localhost is not known ({error.strerror}): add it to /etc/hosts"


def _resources() -> Iterator[str]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files not in (-1, resource.RLIM_INFINITY) and files < OPEN_FILES_MIN:
        yield f"a process may have {files} files open, {OPEN_FILES_MIN} are needed: ulimit -n {OPEN_FILES_MIN}"
    disk = shutil.disk_usage(tempfile.gettempdir()).free // MB
    if disk < FREE_DISK_MB_MIN:
        yield f"{tempfile.gettempdir()} has {disk} MB free, {FREE_DISK_MB_MIN} are needed"
    memory = psutil.virtual_memory().available // MB
    if memory < FREE_MEMORY_MB_MIN:
        yield f"{memory} MB of memory are free, {FREE_MEMORY_MB_MIN} are needed"
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY_LOAD_PER_CORE * cores:
        yield f"it is busy: {load:.0f} processes want its {cores} cores, so what waits under a deadline may fail"


def _user() -> Iterator[str]:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        yield f"the user id {os.geteuid()} has no entry in the list of users"


def _browser() -> Iterator[str]:
    program, trouble = chromium()
    if program is None:
        yield trouble


_LOOKS: tuple[Callable[[], Iterator[str]], ...] = (_servers, _network, _resources, _user, _browser)


def _why_not(command: list[str]) -> str | None:
    """The first line of what it says on failing; None when it runs."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
    return said[0] if result.returncode else None
