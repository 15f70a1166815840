"""Path and query parameters, checked: what is malformed or given twice is refused by name, never guessed.

Parameters that no route knows are ignored, as everywhere on the web.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from analytics_api.errors import InvalidParameterError
from telemetry.readings import DeviceId, Timestamp

HOURS_DEFAULT = 24
HOURS_MAX = 744  # a month of 31 days

_DEVICE_ID: TypeAdapter[str] = TypeAdapter(DeviceId)
_TIMESTAMP: TypeAdapter[str] = TypeAdapter(Timestamp)
_HOURS = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True)
class Window:
    """The time that an answer covers, [start, end)."""

    start: datetime
    end: datetime


def device_id(request: Request, name: str) -> str:
    """The id in the path under `name`; InvalidParameterError where it could not be any device's."""
    try:
        return _DEVICE_ID.validate_python(request.path_params[name])
    except ValidationError:
        raise InvalidParameterError(name, "must be 1 to 100 characters of A-Z a-z 0-9 . _ : -") from None


def window(request: Request, now: datetime) -> Window:
    """`hours` full hours until `end`, by default the last 24 until now."""
    hours = _hours(_only(request, "hours"))
    end = _end(_only(request, "end"), now)
    try:
        return Window(end - timedelta(hours=hours), end)
    except OverflowError:
        raise InvalidParameterError("end", "must leave room for the hours before it") from None


def _only(request: Request, name: str) -> str | None:
    """The value of a query parameter; None where it is not given."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise InvalidParameterError(name, "must be given once")
    return values[0] if values else None


def _hours(text: str | None) -> int:
    if text is None:
        return HOURS_DEFAULT
    if _HOURS.fullmatch(text) is None or not 1 <= int(text) <= HOURS_MAX:
        raise InvalidParameterError("hours", f"must be a whole number from 1 to {HOURS_MAX}")
    return int(text)


def _end(text: str | None, now: datetime) -> datetime:
    if text is None:
        return now
    try:
        # In a query string a + that was not written as %2B arrives as a space.
        stamp = _TIMESTAMP.validate_python(text.replace(" ", "+"))
        return datetime.fromisoformat(stamp).astimezone(UTC)
    except (ValueError, OverflowError):  # a ValidationError is a ValueError, and so is the 31st of February
        raise InvalidParameterError("end", "must be RFC 3339 with an offset, like 2026-01-31T14:00:00Z") from None
