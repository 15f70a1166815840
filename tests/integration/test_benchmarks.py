"""Each benchmark in a tiny form: it ends well and leaves JSON and a picture, nothing running. Figures mean nothing."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import citus
from benchmarks.machine import Machine, hopeless, shortcomings
from tests.citus import NOT_GIVEN
from tests.waiting import wait_until

PROJECT = Path(__file__).parents[2]
SECONDS_MAX = 120
TINY = {
    "drain": ["--messages", "2000", "--devices", "50", "--rounds", "1"],
    "steady": ["--rates", "200", "--seconds", "0.5", "--steps", "0", "--flush-intervals"],
    "outage": ["--rate", "200", "--before", "0.5", "--away", "0.5", "--after", "0.5"],
    "window": ["--messages", "500", "--windows", "10"],
    "workers": ["--messages", "500", "--rounds", "1"],
    "scale": ["--messages", "500", "--rounds", "1", "--ingestors", "2", "--devices", "10", "--days", "3"],
}


@contextmanager
def _started(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A benchmark as a process; killed where the test does not see its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder that the servers' own account may enter; pytest's own are closed to it."""
    with tempfile.TemporaryDirectory(prefix="wattline-test-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.parametrize("name", TINY)
def test_it_ends_well_and_leaves_results_alone(name: str, folder: Path) -> None:
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o755)
    with _started(name, *TINY[name], "--output", str(folder / "results"), folder=temporary) as process:
        shown, problems = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, problems
    content: dict[str, Any] = json.loads((folder / "results" / f"{name}.json").read_text())
    assert content["machine"]["postgresql"] in shown
    assert content["tables"]
    assert all(rows for rows in content["tables"].values())
    assert (folder / "results" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert list(temporary.glob("wattline-bench-*")) == []


def test_interrupted_it_leaves_nothing_running(folder: Path) -> None:
    with _started("outage", "--rate", "100", "--output", str(folder / "results"), folder=folder) as process:
        ours = psutil.Process(process.pid)
        # Both servers, the ingestor and the publisher.
        wait_until(lambda: not ours.is_running() or len(ours.children()) >= 4, timeout=60, what="all children to run")
        children = ours.children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, problems = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 130, problems
    assert "Traceback" not in problems
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert list(folder.glob("wattline-bench-*")) == []


def test_a_machine_too_small_is_named() -> None:
    small = Machine(1, 3.0, 4.0, "a CPU", "Linux 6", "3.11.7", "18.6", "2.0.11")
    assert len(shortcomings(small)) == 3
    assert not hopeless(small)
    assert hopeless(Machine(8, 64.0, 1.0, "a CPU", "Linux 6", "3.11.7", "18.6", "2.0.11"))
    assert shortcomings(Machine(2, 4.0, 5.0, "a CPU", "Linux 6", "3.11.7", "18.6", "2.0.11")) == []


def test_without_a_cluster_its_benchmark_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(citus, "CITUS_URL", None)
    assert citus.run(argparse.Namespace()) == 0
    assert capsys.readouterr().out == f"{NOT_GIVEN}\n"
