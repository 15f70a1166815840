"""Becomes another program, tied to the process that asked for it: where that one dies, this one gets a signal.

Run as a script, never imported: `tether.py PARENT SIGNAL UID GID PROGRAM [ARGUMENT...]` (UID -1 = stay who we are). A
script of its own, because PR_SET_PDEATHSIG has to come after the change of user and before the new program, and
running Python between fork and exec inside a process that has threads may deadlock. It needs the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(parent: int, death_signal: int, uid: int, gid: int, command: list[str]) -> None:
    """Never returns, except by an OSError."""
    # Until the program itself takes over, a Ctrl-C ends this process without a traceback in the program's log.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # it died before the line above
            os.kill(os.getpid(), death_signal)
    os.execv(command[0], command)  # noqa: S606 - to replace this process without a shell is the whole point


if __name__ == "__main__":
    parent_pid, orphan_signal, user, group = (int(number) for number in sys.argv[1:5])
    program = sys.argv[5:]
    try:
        become(parent_pid, orphan_signal, user, group, program)
    except OSError as error:
        sys.exit(f"cannot start {program[0]}: {error.strerror}")
