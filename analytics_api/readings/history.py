"""`GET /v1/telemetry/{kind}/{id}/history`: the readings of one device in [from, to), newest first.

`to` is now and `from` a day earlier where they are not given. A page goes on before the last moment of the page
before; its cursor carries device and window, so the pages of a list belong together though "now" moves on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

from psycopg.rows import TupleRow
from pydantic import Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.database.questions import Database
from analytics_api.http import parameters
from analytics_api.http.cursors import from_microseconds, microseconds, not_of_this_list, read_cursor, write_cursor
from analytics_api.http.errors import InvalidParameterError
from analytics_api.http.parameters import HOURS_DEFAULT, HOURS_MAX, Window
from analytics_api.readings.known import KNOWN, unknown
from analytics_api.readings.layouts import READING
from analytics_api.readings.pages import page_or_csv
from telemetry.kinds import KINDS, Kind, SqlByKind
from telemetry.readings import DeviceId

# The readings of one device in a window, newest first. Null rows: no bound.
READINGS = SqlByKind("""
    SELECT {id}, {measures}, ts, ingested_at
    FROM {history}
    WHERE {id} = %(device_id)s AND ts >= %(start)s AND ts < %(end)s
    ORDER BY ts DESC
    LIMIT %(rows)s::bigint""")


_Moment = Annotated[int, Field(strict=True)]
# Device, start and end of the window, the last reading of the page.
_KEY: TypeAdapter[tuple[object, ...]] = TypeAdapter(tuple[DeviceId, _Moment, _Moment, _Moment])


@dataclass(frozen=True)
class Place:
    """A window, and the moment before which the page begins."""

    window: Window
    before: datetime


def routes(database: Database) -> list[BaseRoute]:
    return [Route(f"{kind.device_route}/history", partial(readings, database, kind)) for kind in KINDS]


async def readings(database: Database, kind: Kind, request: Request) -> Response:
    """A page of readings, newest first."""
    device_id = parameters.device_id(request, kind.id_field)
    limit = parameters.limit_given(request)
    listing = f"{kind.name} history"
    place = _place(listing, device_id, request)
    if await database.row(KNOWN[kind.name], {"device_id": device_id}) is None:
        raise unknown(kind, device_id)
    key = {"device_id": device_id, "start": place.window.start, "end": place.before}

    def cursor_after(row: TupleRow) -> str:
        moments = (place.window.start, place.window.end, row[-2])
        return write_cursor(listing, (device_id, *map(microseconds, moments)))

    query, layout = READINGS[kind.name], READING[kind.name]
    return await page_or_csv(
        request, database, query, key, limit=limit, layout=layout, cursor_after=cursor_after, of_window=True
    )


def _place(listing: str, device_id: str, request: Request) -> Place:
    start, end = parameters.moment(request, "from"), parameters.moment(request, "to")
    cursor = parameters.cursor(request)
    if cursor is None:
        window = _window(start, end, datetime.now(UTC))
        return Place(window, window.end)
    owner, *numbers = read_cursor(listing, _KEY, cursor)
    first, last, before = (from_microseconds(number) for number in numbers)  # type: ignore[arg-type]  # as _KEY says
    if owner != device_id or start not in (None, first) or end not in (None, last):
        raise InvalidParameterError("cursor", "belongs to another device or window")
    if not first <= before < last or last - first > timedelta(hours=HOURS_MAX):
        raise not_of_this_list()
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
