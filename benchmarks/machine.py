"""What the figures were measured on, and whether that is enough for them to mean anything.

A figure without its machine is a rumour, so every report carries these facts. A container's limits are the machine's.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from embedded.account import account_for
from embedded.mosquitto_program import mosquitto_program
from embedded.postgres_programs import postgres_programs

CGROUP = Path("/sys/fs/cgroup")
# Broker, database and ingestor want two cores between them; 500,000 queued messages and a database 4 GB with some air;
# history, WAL and snapshots 5 GB of disk.
CORES_MIN, MEMORY_GB_MIN, DISK_GB_MIN = 2, 4.0, 5.0
# Below these a run would end in the middle, and take other programs with it.
MEMORY_GB_LEAST, DISK_GB_LEAST = 1.0, 2.0
GB = 1_000_000_000


@dataclass(frozen=True)
class Machine:
    """The facts, in the order in which they are shown."""

    cores: float
    memory_gb: float
    disk_free_gb: float
    cpu: str
    kernel: str
    python: str
    postgresql: str
    mosquitto: str

    def line(self) -> str:
        """For the head of a table."""
        return (
            f"{self.cores:g} cores ({self.cpu}), {self.memory_gb:.1f} GB of memory, {self.disk_free_gb:.0f} GB of disk "
            f"free; {self.kernel}, Python {self.python}, PostgreSQL {self.postgresql}, Mosquitto {self.mosquitto}"
        )


def this_machine() -> Machine:
    """Look at it. Raises EmbeddedError where PostgreSQL or Mosquitto cannot be had."""
    folder = Path(tempfile.gettempdir())
    account = account_for(folder / "wattline-bench-of-nobody-yet")
    broker = mosquitto_program(account)
    return Machine(
        cores=_cores(),
        memory_gb=_memory_bytes() / GB,
        disk_free_gb=shutil.disk_usage(folder).free / GB,
        cpu=_cpu_model(),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        postgresql=_version([postgres_programs(account).postgres, "--version"], {}),
        mosquitto=_version([str(broker.path), "-h"], dict(broker.environment)),
    )


def shortcomings(machine: Machine) -> list[str]:
    """What this machine has too little of for its figures to be worth comparing."""
    wanted = (
        (machine.cores < CORES_MIN, f"{machine.cores:g} core(s) where {CORES_MIN} are needed"),
        (machine.memory_gb < MEMORY_GB_MIN, f"{machine.memory_gb:.1f} GB of memory where {MEMORY_GB_MIN:g} are needed"),
        (
            machine.disk_free_gb < DISK_GB_MIN,
            f"{machine.disk_free_gb:.1f} GB of disk free where {DISK_GB_MIN:g} are needed (TMPDIR chooses the place)",
        ),
    )
    return [text for short, text in wanted if short]


def hopeless(machine: Machine) -> bool:
    """Whether a run would fill the disk or the memory."""
    return machine.memory_gb < MEMORY_GB_LEAST or machine.disk_free_gb < DISK_GB_LEAST


def _cores() -> float:
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = _cgroup("cpu.max").partition(" ")
    return min(cores, int(quota) / int(period)) if quota.isdecimal() and period.isdecimal() else cores


def _memory_bytes() -> int:
    total, limit = int(psutil.virtual_memory().total), _cgroup("memory.max")
    return min(total, int(limit)) if limit.isdecimal() else total


def _cgroup(name: str) -> str:
    try:
        return (CGROUP / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _version(command: list[str], environment: dict[str, str]) -> str:
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=10).stdout
    found = re.search(r"\d+(\.\d+)+", shown)
    return found[0] if found else "unknown"
