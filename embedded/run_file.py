"""`.wattline/run.json` and the lock beside it: one `up` a folder, what it runs, and what a killed one left running.

The lock decides who runs; the file only informs (see config/running.py, which reads it). It names no secret, and is
still readable by its owner alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config.running import RUN_FILE
from embedded.errors import EmbeddedError
from embedded.leftovers import birth_of, end, process_born
from processes.service import Service

LOCK_FILE = "up.lock"


@contextmanager
def sole_run(data_dir: Path) -> Iterator[None]:
    """Hold the folder; the lock goes with the process, however it ends. Raises EmbeddedError when another holds it."""
    with (data_dir / LOCK_FILE).open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise EmbeddedError(
                f"wattline already runs in {data_dir} (pid {lock.read()}): stop that one, or choose another --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            (data_dir / RUN_FILE).unlink(missing_ok=True)


def write_run(data_dir: Path, facts: Mapping[str, Any], services: Sequence[Service]) -> None:
    """Put the file in place, whole or not at all."""
    pids = {service.name: service.pid for service in services if service.pid is not None and service.running}
    births = {name: birth for name, pid in pids.items() if (birth := birth_of(pid))}  # none: it ends just now
    text = json.dumps({"pid": os.getpid(), **facts, "pids": pids, "births": births}, indent=2)
    draft = data_dir / (RUN_FILE + ".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    draft.replace(data_dir / RUN_FILE)


def end_left_running(data_dir: Path) -> None:
    """End what an `up` that was killed left behind; ids that belong to others by now are left alone."""
    past = _read(data_dir)
    pids, births = past.get("pids", {}), past.get("births", {})
    found = {name: process_born(pids[name], births[name]) for name in pids if name in births}
    left = {name: process for name, process in found.items() if process is not None}
    # PostgreSQL takes a TERM as a request to wait for its clients.
    database = left.pop("postgres", None)
    end(list(left.values()))
    if database is not None:
        end([database], (signal.SIGINT, signal.SIGQUIT))


def _read(data_dir: Path) -> dict[str, Any]:
    try:
        past = json.loads((data_dir / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return past if isinstance(past, dict) else {}
