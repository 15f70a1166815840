"""Open files: each connection is one, and the usual limit (1,024) is far below a fleet.

The soft limit is ours to raise up to the hard one; beyond that only a person can, and is told how.
"""

from __future__ import annotations

import sys
from typing import Final

# Log, terminal, event loop, database: what a process has open besides.
OTHER_FILES: Final = 64


def make_room(connections: int) -> str | None:
    """Raise the limit where it is too low for that number of connections; what to change where that cannot be done."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - POSIX only

    needed = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    if hard == resource.RLIM_INFINITY or hard >= needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        except (OSError, ValueError) as error:  # macOS has a limit of its own below the hard one
            return _advice(connections, needed, soft, str(error))
        return None
    return _advice(connections, needed, hard, None)


def _advice(connections: int, needed: int, limit: int, error: str | None) -> str:
    why = f" ({error})" if error else ""
    return (
        f"--connections {connections} needs {needed:,} open files and the limit is {limit:,}{why}: raise it "
        f"(`ulimit -n {needed}` as root, or LimitNOFILE= / nofile in limits.conf), or take at most "
        f"{max(1, limit - OTHER_FILES)} connections"
    )
