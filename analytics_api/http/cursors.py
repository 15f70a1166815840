"""Cursors of paginated lists: where the next page begins, as a text that only we can read.

A cursor holds the key of the last row of its page, never an offset, so pages stay right while data arrives. It is
not a secret: every value in it is checked again when it comes back.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from analytics_api.http.errors import InvalidParameterError
from telemetry.readings import EPOCH, MICROSECOND

CURSOR_CHARACTERS_MAX = 1_000

Key = Sequence[str | int | float | bool | tuple[int | bool | None, ...] | None]
Shape = TypeVar("Shape", bound=tuple[object, ...])
Row = TypeVar("Row")


def write_cursor(listing: str, key: Key) -> str:
    """The cursor of a page of `listing` (a name of ours: cursors of another list are refused) that ends at `key`."""
    return urlsafe_b64encode(to_json([listing, *key])).decode().rstrip("=")


def read_cursor(listing: str, shape: TypeAdapter[Shape], cursor: str) -> Shape:
    """The key in a cursor, validated against `shape`. Raises InvalidParameterError."""
    invalid = not_of_this_list()
    if len(cursor) > CURSOR_CHARACTERS_MAX:
        raise invalid
    try:
        content = from_json(urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
        if not isinstance(content, list) or content[:1] != [listing]:
            raise invalid
        return shape.validate_python(tuple(content[1:]))
    except (ValueError, ValidationError):
        raise invalid from None


def microseconds(moment: datetime) -> int:
    """A moment as cursors carry it: microseconds since 1970."""
    return (moment - EPOCH) // MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The moment again. Raises InvalidParameterError for one that no calendar has."""
    try:
        return EPOCH + value * MICROSECOND
    except OverflowError:
        raise not_of_this_list() from None


def not_of_this_list() -> InvalidParameterError:
    """To be raised for a cursor that was made up, or belongs elsewhere."""
    return InvalidParameterError("cursor", "is not one that this list gave; leave it out to begin again")


def page_of(rows: Sequence[Row], limit: int, cursor_after: Callable[[Row], str]) -> tuple[Sequence[Row], str | None]:
    """A page of at most `limit` rows, and the cursor of the next page where there is one. To know that, ask for one row
    more than a page holds.
    """
    return rows[:limit], cursor_after(rows[limit - 1]) if len(rows) > limit else None
