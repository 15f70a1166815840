"""`.env` in the folder where a command starts: names and values, each line as it is meant or refused."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dotenv.parser import parse_stream

from config.errors import SettingsError

ENV_FILE = ".env"


def read_env_file(known: Collection[str]) -> dict[str, str]:
    """What it says; nothing where there is none. `known` are the settings, in lower case.

    Raises SettingsError for a line that its reader would pass over, so that a quote too many does not open what tokens
    close; OSError or UnicodeDecodeError where it cannot be read.
    """
    try:
        with Path(ENV_FILE).open(encoding="utf-8") as file:
            bindings = list(parse_stream(file))
    except FileNotFoundError:
        return {}
    for binding in bindings:
        if binding.error:
            raise SettingsError(f"{ENV_FILE}: line {binding.original.line} is not NAME=value")
        if binding.value is None and (binding.key or "").lower() in known:
            raise SettingsError(f"{ENV_FILE}: line {binding.original.line}: {binding.key} has no value")
    return {binding.key: binding.value for binding in bindings if binding.key and binding.value is not None}
