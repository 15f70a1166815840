"""Names that are nearly those of settings: a person who wrote RETENTION_DAY=5 believes that it is in force."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Literal

from config.logging import configure_logging

logger = logging.getLogger(__name__)

# RETENTION_DAY to RETENTION_DAYS is 0.96, DATABASE_USER to DATABASE_USERNAME 0.87, MQTT_PORT to METRICS_PORT 0.76.
ALIKE_MIN = 0.85
PATTERN = "MAX_KWH"

_told: set[str] = set()


def near_misses(given: Iterable[str], known: Collection[str]) -> Mapping[str, str]:
    """Of the names that are given those that no setting has, each with the setting that was probably meant.

    Only names of two words or more count, or PATH would be taken for PORT; one that lacks the last words is near, as
    SILENT_AFTER. METER_MAX_KWH and its like are a pattern: whatever the kind is, the rest of the name has to be near.
    Upper and lower case are the same.
    """
    targets = [name for name in known if "_" in name]
    found = {}
    for name in given:
        written = name.upper()
        kind, _, rest = written.partition("_")
        limit = f"{kind}_{PATTERN}"
        if written in {*known, limit} or not rest:
            continue
        if get_close_matches(rest, [PATTERN], cutoff=ALIKE_MIN):
            found[name] = limit
            continue
        # One that goes on where the name ends comes first: DATABASE_USER is no misspelt DATABASE_URL.
        longer = [target for target in targets if target.startswith(written)]
        close = (
            get_close_matches(written, longer, 1, ALIKE_MIN)
            or get_close_matches(written, [target for target in longer if target[len(written)] == "_"], 1, 0.0)
            or get_close_matches(written, targets, 1, ALIKE_MIN)
        )
        if close:
            found[name] = close[0]
    return found


def tell_of_near_misses(
    given: Iterable[str], known: Collection[str], level: str, log_format: Literal["text", "json"]
) -> None:
    """Once for each name in the life of a process. Nothing is set up to log before the first settings are read."""
    misses = near_misses(set(given) - _told, known)
    if misses:
        configure_logging(level, log_format)
    for name, meant in sorted(misses.items()):
        _told.add(name)
        logger.warning("%s is no setting, and has no effect; %s is one", name, meant)
