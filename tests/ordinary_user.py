"""Running Python as an ordinary user, which matters where the tests themselves run as root."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from embedded.account import can_read
from processes.child import Account


class OrdinaryUser(NamedTuple):
    """A Python that the user may run, and what subprocess needs to become that user."""

    python: str
    options: dict[str, Any]
    uid: int
    gid: int


def ordinary_user() -> OrdinaryUser:
    """Ourselves, or `nobody` when we are root; skips the test where nobody can run any Python that fits."""
    if os.geteuid() != 0:
        return OrdinaryUser(sys.executable, {}, os.getuid(), os.getgid())
    entry = pwd.getpwnam("nobody")
    account = Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    fitting = shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    pythons = [path for path in (sys.executable, fitting) if path and can_read(Path(path), account)]
    folders = [folder for folder in sys.path if Path(folder).is_dir()]
    if not pythons or not all(can_read(Path(folder), account) for folder in folders if "site-packages" in folder):
        pytest.skip("the Python that runs the tests lies where only root may go")
    readable = [folder for folder in folders if can_read(Path(folder), account)]
    options = {
        "user": account.uid,
        "group": account.gid,
        "extra_groups": [],
        "cwd": "/",
        "env": {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(readable), "HOME": "/nonexistent"},
    }
    return OrdinaryUser(pythons[0], options, account.uid, account.gid)
