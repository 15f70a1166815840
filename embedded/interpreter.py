"""Python and wattline's own code as the account that runs the servers can reach them.

Where that account may not enter the folders above (root's home is closed), it is handed each folder as an open
directory and names it through /proc/self/fd. It never opens anybody's folder to others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embedded.account import can_read
from processes.child import Account

OPEN_FOLDERS = Path("/proc/self/fd")
TRIAL = "import wattline.cli, psycopg, pydantic, uvicorn"
TRIAL_SECONDS = 30.0
SOURCE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Interpreter:
    """How to start it: as whom, with which environment beside the usual one, with which open folders."""

    program: str
    account: Account | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[int, ...] = ()
    why_not: str | None = None
    """Why it runs as us although `account` was asked for, in words."""


def interpreter_for(account: Account | None) -> Interpreter:
    """For `account`, if it can run Python at all; else for ourselves. The folders stay open as long as we run."""
    if account is None:
        return Interpreter(sys.executable)
    packages = Path(sysconfig.get_path("purelib"))
    needed = (Path(sys.executable), Path(os.__file__), packages, SOURCE, Path(__file__))
    if all(can_read(path, account) for path in needed):
        found: Interpreter | None = Interpreter(sys.executable, account)
    else:
        found = _handed_over(account, packages)
    if found and _runs(found, account):
        return found
    for folder in found.folders if found else ():
        os.close(folder)
    return Interpreter(
        sys.executable,
        why_not=f"the user {account.name}, who runs the servers, cannot read {packages} or {SOURCE}; let others read "
        "them (chmod -R go+rX), or start it as an ordinary user",
    )


def _handed_over(account: Account, packages: Path) -> Interpreter | None:
    """Without any path that leads through a closed folder; None where the system or this Python does not allow it."""
    base = Path(sys.base_prefix).resolve()
    program = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if not OPEN_FOLDERS.is_dir() or not program.is_relative_to(base):
        return None
    folders = tuple(os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in (base, packages, SOURCE))
    home, *code = (OPEN_FOLDERS / str(folder) for folder in folders)
    environment = {
        "PYTHONHOME": str(home),
        "PYTHONPATH": os.pathsep.join(map(str, code)),
        "LD_LIBRARY_PATH": str(home / "lib"),  # of libpython, where it is a library
    }
    return Interpreter(str(home / program.relative_to(base)), account, environment, folders)


def _runs(interpreter: Interpreter, account: Account) -> bool:
    """Whether the account gets as far as loading our code, and what it needs."""
    try:
        result = subprocess.run(
            [interpreter.program, "-c", TRIAL],
            env={"PATH": os.defpath, **interpreter.environment},
            cwd="/",
            capture_output=True,
            check=False,
            timeout=TRIAL_SECONDS,
            pass_fds=interpreter.folders,
            user=account.uid,
            group=account.gid,
            extra_groups=[],
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return result.returncode == 0
