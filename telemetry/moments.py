"""Moments on the command line: as devices write them, or a day."""

from __future__ import annotations

import argparse
from datetime import datetime

from pydantic import TypeAdapter

from telemetry.readings import Timestamp, instant

FORM = "2026-01-31T14:00:00Z or 2026-01-31"

_TIMESTAMP: TypeAdapter[str] = TypeAdapter(Timestamp)


def moment(text: str) -> datetime:
    """A type for argparse: a moment in UTC; a day is its first."""
    try:
        return instant(_TIMESTAMP.validate_python(text if "t" in text.lower() else f"{text}T00:00:00Z"))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like {FORM}") from None
