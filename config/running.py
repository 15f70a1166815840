"""What a `wattline up` runs, as the other commands find it: `run.json` in its data directory.

`up` writes the file, the others read it, so that `wattline loadgen --verify` beside it needs no settings. It names no
secret: the database URL points to a password file. What an `up` that has ended left behind answers for nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import WattlineError

DATA_DIR = Path(".wattline")
RUN_FILE = "run.json"


@dataclass(frozen=True)
class Running:
    """Where the database and the broker of a running `up` are."""

    database_url: str
    mqtt_url: str
    mqtt_tls_ca: str | None = None
    """The authority of its broker's certificate, and the folder of its accounts; both only with `up --secure`."""
    access_dir: Path | None = None


class NotRunningError(WattlineError):
    """No `up` runs in a data directory; the message says how that was seen."""


def forget_other_servers() -> None:
    """Drop libpq's variables: they are about another PostgreSQL, and libpq would add them to a URL that is complete.

    A PGPASSWORD even wins over the password file of the URL.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def find_running(data_dir: Path) -> Running:
    """What the `up` of this data directory runs. Raises NotRunningError."""
    file = data_dir / RUN_FILE
    try:
        running = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotRunningError(f"no `wattline up` runs in {data_dir}") from None
    except OSError as error:
        raise NotRunningError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise NotRunningError(f"{file} is not what `wattline up` writes") from None
    match running:
        case {"pid": int(pid), "databaseUrl": str(database_url), "mqttUrl": str(mqtt_url)}:
            if not _is_up(pid):
                raise NotRunningError(f"the `wattline up` of {data_dir} has ended")
            folder = running.get("accessDir")
            return Running(database_url, mqtt_url, running.get("mqttTlsCa"), None if folder is None else Path(folder))
        case _:
            raise NotRunningError(f"{file} is not what `wattline up` writes")


def access_dir_of_running(data_dir: Path) -> Path | None:
    """The folder of the broker's accounts of an `up --secure` that runs there; None where none does."""
    try:
        return find_running(data_dir).access_dir
    except NotRunningError:
        return None


def _is_up(pid: int) -> bool:
    """Whether this process is an `up`: after a crash or a restart of the machine its id may belong to anything."""
    import psutil  # noqa: PLC0415 - most commands never ask

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        words: list[Any] = process.cmdline()
    except psutil.AccessDenied:  # it lives, and belongs to another user
        return True
    except (psutil.Error, ValueError, OverflowError):
        return False
    return "up" in words and any("wattline" in word for word in words)
