"""Where the broker's program comes from: PATH, Debian's package, Homebrew; else one line of what to install.

A broker older than 2.0 is passed over: it speaks no MQTT 5, or not well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embedded import debian
from embedded.account import can_read
from embedded.cache import cached
from embedded.errors import EmbeddedError
from processes.child import Account

OLDEST = (2, 0)
# Debian puts it into sbin, which is not on an ordinary user's PATH; nor is Homebrew's.
BESIDE_PATH = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "/home/linuxbrew/.linuxbrew/sbin")
HOW_TO_INSTALL = (
    "Mosquitto 2.0 or later is missing: install the package 'mosquitto' of your system so that the program is on PATH "
    "(Debian, Ubuntu: apt-get install mosquitto; Fedora: dnf install mosquitto; macOS: brew install mosquitto)"
)


@dataclass(frozen=True)
class MosquittoProgram:
    """The program, and the environment that it needs to find its libraries."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)


def mosquitto_program(account: Account | None) -> MosquittoProgram:
    """Find the broker, or fetch it. Raises EmbeddedError: one line that says what to install."""
    found = _installed(account) or _unpacked(account)
    if found is None and (brew := shutil.which("brew")):
        print("fetching Mosquitto with Homebrew ...", flush=True)
        subprocess.run([brew, "install", "--quiet", "mosquitto"], check=False)
        found = _installed(account)
    if found is None:
        raise EmbeddedError(HOW_TO_INSTALL)
    return found


def version(program: MosquittoProgram) -> tuple[int, ...] | None:
    """What it says about itself; None when it does not run."""
    try:
        shown = subprocess.run(
            [program.path, "-h"], env=dict(program.environment), capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"mosquitto version (\d+)\.(\d+)", shown.stdout)
    return tuple(int(part) for part in match.groups()) if match else None


def _installed(account: Account | None) -> MosquittoProgram | None:
    """The first one that runs, is new enough and that the account may run, too."""
    for folder in (*os.environ.get("PATH", os.defpath).split(os.pathsep), *BESIDE_PATH):
        found = shutil.which("mosquitto", path=folder or os.curdir)
        if found and can_read(Path(found), account) and (program := _usable(MosquittoProgram(Path(found).absolute()))):
            return program
    return None


def _unpacked(account: Account | None) -> MosquittoProgram | None:
    if not debian.available():
        return None
    try:
        root = cached("mosquitto", account, _fetch)
    except EmbeddedError as error:
        raise EmbeddedError(f"could not fetch Mosquitto: {error}. {HOW_TO_INSTALL}") from None
    libraries = os.pathsep.join(
        str(folder) for part in ("usr/lib", "lib") for folder in sorted((root / part).glob("*/"))
    )
    program = MosquittoProgram(root / "usr" / "sbin" / "mosquitto", {"LD_LIBRARY_PATH": libraries})
    if _usable(program) is None:
        raise EmbeddedError(f"{program.path} does not run here: remove {root} to fetch it again. {HOW_TO_INSTALL}")
    return program


def _fetch(draft: Path) -> None:
    print("fetching Mosquitto with apt-get (it is unpacked, not installed) ...", flush=True)
    debian.unpack("mosquitto", draft)


def _usable(program: MosquittoProgram) -> MosquittoProgram | None:
    says = version(program)
    return program if says is not None and says >= OLDEST else None
