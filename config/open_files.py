"""How many files this process may have open; each connection is one, and the usual limit of 1,024 is soon reached.

The soft limit is ours to raise up to the hard one. A server counts on what is there, and keeps some for itself; beyond
that only a person can raise it.
"""

from __future__ import annotations

import sys

FILES_MAX = 16_384
"""More than our servers use; a limit in the millions makes every start of a child slow."""
ELSEWHERE = 1_024
"""What a system without such limits is taken to allow."""


def raise_limit(files_max: int = FILES_MAX) -> int:
    """Raise the soft limit to `files_max`, or as far as it goes; what it is now."""
    if sys.platform == "win32":
        return ELSEWHERE
    import resource  # noqa: PLC0415 - POSIX only

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return files_max
    wanted = files_max if hard == resource.RLIM_INFINITY else min(files_max, hard)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS has a limit of its own below the hard one
            return soft
        return wanted
    return soft
