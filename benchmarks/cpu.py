"""How much CPU a program has used, with everything that it started."""

from __future__ import annotations

import psutil


def cpu_seconds(pid: int | None) -> float:
    """User and system time of a process and its children, those that have ended included."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:  # it ended just now; the next look finds it among the parent's children
            continue
        total += used.user + used.system
    return float(total)
