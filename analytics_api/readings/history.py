"""`GET /v1/telemetry/{kind}/{id}/history`: the readings of one device in [from, to), newest first.

`to` is now and `from` a day earlier where they are not given. A page goes on before the last moment of the page
before; its cursor carries device and window, so the pages of a list belong together though "now" moves on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, LiteralString

from pydantic import Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.database.questions import Database
from analytics_api.http import parameters
from analytics_api.http.csv_answers import CsvAnswer, page_answer, prefers_csv
from analytics_api.http.cursors import from_microseconds, microseconds, read_cursor, write_cursor
from analytics_api.http.errors import InvalidParameterError
from analytics_api.http.parameters import HOURS_DEFAULT, HOURS_MAX, Window
from analytics_api.readings.known import KNOWN, unknown
from analytics_api.readings.records import READING, Record
from telemetry.kinds import KINDS, Kind
from telemetry.readings import DeviceId

# The readings of one device in a window, newest first. Null rows: no bound.
READINGS: LiteralString = """
    SELECT {id}, {measures}, ts, ingested_at
    FROM {history}
    WHERE {id} = %(device_id)s AND ts >= %(start)s AND ts < %(end)s
    ORDER BY ts DESC
    LIMIT %(rows)s::bigint"""


@dataclass(frozen=True)
class History:
    """The readings of a kind of device."""

    kind: Kind
    known: bytes
    query: bytes
    record: Record

    @classmethod
    def of(cls, kind: Kind) -> History:
        """Rendered once, when the program starts."""
        return cls(kind, kind.sql(KNOWN), kind.sql(READINGS), READING[kind.name])

    @property
    def name(self) -> str:
        """In its cursors."""
        return f"{self.kind.name} history"


_Moment = Annotated[int, Field(strict=True)]
# Device, start and end of the window, the last reading of the page.
_KEY: TypeAdapter[tuple[object, ...]] = TypeAdapter(tuple[DeviceId, _Moment, _Moment, _Moment])


@dataclass(frozen=True)
class Place:
    """A window, and the moment before which the page begins."""

    window: Window
    before: datetime


def routes(database: Database) -> list[BaseRoute]:
    """The routes of this module."""
    return [Route(f"{kind.device_route}/history", partial(readings, database, History.of(kind))) for kind in KINDS]


async def readings(database: Database, history: History, request: Request) -> Response:
    """A page of readings; as CSV the whole window, where no `limit` says otherwise."""
    device_id = parameters.device_id(request, history.kind.id_field)
    limit = parameters.limit_given(request)
    place = _place(history, device_id, request)
    if await database.row(history.known, {"device_id": device_id}) is None:
        raise unknown(history.kind, device_id)
    key = {"device_id": device_id, "start": place.window.start, "end": place.before}
    if prefers_csv(request):
        return CsvAnswer(database, history.query, {**key, "rows": limit}, history.record)
    limit = limit or parameters.LIMIT_DEFAULT
    # One row more than the page holds tells whether there is a next one.
    rows = await database.rows(history.query, {**key, "rows": limit + 1}, of_window=True)
    page = rows[:limit]
    next_cursor = None
    if len(rows) > limit:
        moments = (place.window.start, place.window.end, page[-1][-2])
        next_cursor = write_cursor(history.name, (device_id, *map(microseconds, moments)))
    return page_answer([history.record.json(row) for row in page], next_cursor)


def _place(history: History, device_id: str, request: Request) -> Place:
    start, end = parameters.moment(request, "from"), parameters.moment(request, "to")
    cursor = parameters.cursor(request)
    if cursor is None:
        window = _window(start, end, datetime.now(UTC))
        return Place(window, window.end)
    owner, *numbers = read_cursor(history.name, _KEY, cursor)
    first, last, before = (from_microseconds(number) for number in numbers)  # type: ignore[arg-type]  # as _KEY says
    if owner != device_id or start not in (None, first) or end not in (None, last):
        raise InvalidParameterError("cursor", "belongs to another device or window")
    if not first <= before < last or last - first > timedelta(hours=HOURS_MAX):
        raise InvalidParameterError("cursor", "is not one that this list gave; leave it out to begin anew")
    return Place(Window(first, last), before)


def _window(start: datetime | None, end: datetime | None, now: datetime) -> Window:
    if start is None:
        return parameters.window_before("to", end or now, timedelta(hours=HOURS_DEFAULT))
    end = end or now
    if start >= end:
        raise InvalidParameterError("from", "must be before `to`, which is now where it is not given")
    if end - start > timedelta(hours=HOURS_MAX):
        raise InvalidParameterError("from", f"must be at most {HOURS_MAX} hours before `to`")
    return Window(start, end)
