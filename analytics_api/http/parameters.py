"""Path and query parameters, checked: what is malformed or given twice is refused by name, never guessed.

Parameters that a route does not know never get here (`description/known_parameters.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from analytics_api.http.cursors import CURSOR_CHARACTERS_MAX, not_of_this_list
from analytics_api.http.errors import InvalidParameterError
from telemetry.readings import DEVICE_ID_RULE, TIMESTAMP_RULE, DeviceId, Timestamp, instant

HOURS_DEFAULT = 24
HOURS_MAX = 744  # a month of 31 days
LIMIT_DEFAULT = 100
LIMIT_MAX = 1_000

_DEVICE_ID: TypeAdapter[str] = TypeAdapter(DeviceId)
_TIMESTAMP: TypeAdapter[str] = TypeAdapter(Timestamp)
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")


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
        raise InvalidParameterError(name, f"must be {DEVICE_ID_RULE}") from None


def window(request: Request, now: datetime) -> Window:
    """`hours` full hours until `end`, by default the last 24 until now."""
    hours = whole_number(request, "hours", 1, HOURS_MAX)
    end = moment(request, "end") or now
    return window_before("end", end, timedelta(hours=HOURS_DEFAULT if hours is None else hours))


def window_before(name: str, end: datetime, length: timedelta) -> Window:
    """The window of `length` that ends at `end`, which the parameter `name` gave."""
    try:
        return Window(end - length, end)
    except OverflowError:
        raise InvalidParameterError(name, "must leave room for the hours before it") from None


def limit(request: Request) -> int:
    """How many rows a page may have."""
    rows = limit_given(request)
    return LIMIT_DEFAULT if rows is None else rows


def limit_given(request: Request) -> int | None:
    """How many rows an answer may have; None, no bound, where the request names none."""
    return whole_number(request, "limit", 1, LIMIT_MAX)


def cursor(request: Request) -> str | None:
    """Where the page begins, unread (`http/cursors.py` reads it); None for the first page."""
    text = only(request, "cursor")
    if text is not None and not 1 <= len(text) <= CURSOR_CHARACTERS_MAX:
        raise not_of_this_list()
    return text


def whole_number(request: Request, name: str, least: int, most: int) -> int | None:
    """A number of ASCII digits from `least` to `most`; None where it is not given."""
    text = only(request, name)
    if text is None:
        return None
    if _WHOLE_NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
        raise InvalidParameterError(name, f"must be a whole number from {least} to {most}")
    return int(text)


def truth(request: Request, name: str) -> bool | None:
    """`true` or `false`; None where it is not given."""
    text = only(request, name)
    if text not in (None, "true", "false"):
        raise InvalidParameterError(name, "must be true or false")
    return None if text is None else text == "true"


def moment(request: Request, name: str) -> datetime | None:
    """A moment in UTC; None where it is not given."""
    text = only(request, name)
    if text is None:
        return None
    try:
        # In a query string a + that was not written as %2B arrives as a space.
        stamp = _TIMESTAMP.validate_python(text.replace(" ", "+"))
        return instant(stamp)
    except (ValueError, OverflowError):  # a ValidationError is a ValueError, and so is the 31st of February
        raise InvalidParameterError(name, f"must be {TIMESTAMP_RULE}") from None


def only(request: Request, name: str) -> str | None:
    """The value of a query parameter; None where it is not given."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise InvalidParameterError(name, "must be given once")
    return values[0] if values else None
