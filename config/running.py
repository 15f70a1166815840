"""What `wattline up` runs here, as its other commands find it: `.wattline/run.json`.

`up` writes the file, every other command reads it, so that `wattline loadgen --verify` in the same folder needs no
settings. It names no secret: the database URL points to a password file. It never overrides a setting that was made.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

DATA_DIR = Path(".wattline")
RUN_FILE = "run.json"


def read_running(data_dir: Path = DATA_DIR) -> dict[str, Any] | None:
    """The contents of run.json if the `up` that wrote it is still alive, else None."""
    try:
        running = json.loads((data_dir / RUN_FILE).read_text(encoding="utf-8"))
        os.kill(running["pid"], 0)
    except (OSError, ValueError, OverflowError, KeyError, TypeError):
        return None
    return running if isinstance(running, dict) else None


def settings_of_running(data_dir: Path = DATA_DIR) -> dict[str, str]:
    """`database_url` and `mqtt_url` of the `up` in this folder; {} when none runs."""
    running = read_running(data_dir) or {}
    keys = {"database_url": "databaseUrl", "mqtt_url": "mqttUrl"}
    return {setting: running[key] for setting, key in keys.items() if key in running}
