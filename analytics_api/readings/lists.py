"""`GET /v1/telemetry/{kind}`: the newest reading of every device, or of those that have gone silent.

A page goes on after the last id of the page before, so no device comes twice and none is passed over, whatever
arrives in between.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, TypeAlias

from psycopg.rows import TupleRow
from pydantic import Field, StrictBool, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.database.questions import Database
from analytics_api.http import parameters
from analytics_api.http.cursors import read_cursor, write_cursor
from analytics_api.http.errors import InvalidParameterError
from analytics_api.readings.layouts import STATUS
from analytics_api.readings.pages import page_or_csv
from telemetry.kinds import KINDS, Kind, SqlByKind
from telemetry.readings import DeviceId

STALE_SECONDS_MAX = 366 * 86_400

# The newest reading of every device, or of those without a sign of life for so long, or of those that are silent (or
# are not), from after a device on. Null stale_seconds, null silent: all of them. Null rows: no bound.
DEVICES = SqlByKind("""
    SELECT {id}, {measures}, last_reading, last_updated
    FROM {status}
    WHERE {id} > %(after)s
      AND last_updated < coalesce(now() - make_interval(secs => %(stale_seconds)s::float8), 'infinity')
      AND ({silent}) = coalesce(%(silent)s::boolean, {silent})
    ORDER BY {id}
    LIMIT %(rows)s::bigint""")


_Chosen: TypeAlias = tuple[Annotated[int, Field(strict=True, ge=0, le=STALE_SECONDS_MAX)] | None, StrictBool | None]
"""staleSeconds and silent, where they were given."""
_KEY: TypeAdapter[tuple[_Chosen, DeviceId]] = TypeAdapter(tuple[_Chosen, DeviceId])


def routes(database: Database, silent_after: float) -> list[BaseRoute]:
    """The routes of this module; `silent_after` is SILENT_AFTER_SECONDS."""
    return [Route(kind.route, partial(statuses, database, silent_after, kind)) for kind in KINDS]


async def statuses(database: Database, silent_after: float, kind: Kind, request: Request) -> Response:
    """A page of the list, by id."""
    chosen = (
        parameters.whole_number(request, "staleSeconds", 0, STALE_SECONDS_MAX),
        parameters.truth(request, "silent"),
    )
    limit = parameters.limit_given(request)
    after = ""
    cursor = parameters.cursor(request)
    if cursor is not None:
        of_cursor, after = read_cursor(kind.many, _KEY, cursor)
        for name, given, before in zip(("staleSeconds", "silent"), chosen, of_cursor, strict=True):
            if given not in (None, before):
                raise InvalidParameterError("cursor", f"belongs to another {name}")
        chosen = of_cursor
    stale_seconds, silent = chosen
    key = {"after": after, "stale_seconds": stale_seconds, "silent": silent, "silent_after": silent_after}

    def cursor_after(row: TupleRow) -> str:
        return write_cursor(kind.many, (chosen, row[0]))

    query, layout = DEVICES[kind.name], STATUS[kind.name]
    return await page_or_csv(request, database, query, key, limit=limit, layout=layout, cursor_after=cursor_after)
