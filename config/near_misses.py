"""Names that are nearly those of settings: whoever wrote RETENTION_DAY=5 believes that it holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher

# RETENTION_DAY to RETENTION_DAYS is 0.96, DATABASE_USER to DATABASE_USERNAME 0.87, MQTT_PORT to METRICS_PORT 0.76.
ALIKE_MIN = 0.85


def near_misses(given: Iterable[str], known: Collection[str]) -> Mapping[str, str]:
    """Of the names that are given those that no setting has, each with the setting that was probably meant.

    Only names of two words or more count, or PATH would be taken for PORT. Upper and lower case are the same.
    """
    targets = [name for name in known if "_" in name]
    found = {}
    for name in given:
        if name.upper() in known or "_" not in name:
            continue
        alike = {target: SequenceMatcher(None, name.upper(), target).ratio() for target in targets}
        # One that goes on where the name ends comes first: DATABASE_USER is no misspelt DATABASE_URL.
        close = [target for target in targets if alike[target] >= ALIKE_MIN]
        if close:
            found[name] = max(close, key=lambda target: (target.startswith(name.upper()), alike[target]))
    return found
