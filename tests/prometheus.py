"""Debian's Prometheus: `promtool`, and a server of its own for a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedded import debian
from embedded.cache import cached
from embedded.errors import EmbeddedError
from embedded.ports import LOOPBACK, free_ports
from processes.child import Child, Program, last_lines
from tests.processes import get_status
from tests.waiting import wait_until


def program(name: str) -> Path:
    """`prometheus` or `promtool`, unpacked and not installed; skips the test where it cannot be had."""
    if not debian.available():
        pytest.skip("Prometheus comes from Debian's packages, and this system has no apt-get")
    try:
        return cached("prometheus", None, _unpack) / "usr" / "bin" / name
    except EmbeddedError as error:
        pytest.skip(f"Prometheus could not be fetched: {error}")


def _unpack(draft: Path) -> None:
    debian.unpack("prometheus", draft, also=["promtool"])  # a package of its own since Debian 13


def promtool(*arguments: str | Path) -> None:
    """Run it; AssertionError with what it says where it is not content."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running_prometheus(configuration: Path, folder: Path) -> Iterator[str]:
    """Its URL."""
    (port,) = free_ports(1)
    url = f"http://{LOOPBACK}:{port}"
    command = [
        str(program("prometheus")),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={LOOPBACK}:{port}",
    ]
    environment = {"PATH": os.environ["PATH"]}
    child = Child(Program("prometheus", command, folder / "prometheus.log", environment, directory=folder))
    child.start()
    try:
        ready = f"{url}/-/ready"
        wait_until(lambda: not child.running or get_status(ready) == 200, what=ready)
        assert child.running, last_lines(child.program.log, 20)
        yield url
    finally:
        child.kill()
